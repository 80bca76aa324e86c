"""Cohorts as a user meets them: patients, cache, concepts, reader."""

from __future__ import annotations

import dataclasses
import os
import warnings

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort import render as render_module
from robustmdiff.data.cohort.concepts import BANDS, frequency_bands
from robustmdiff.data.cohort.reader import Reader, reader_check
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.refusal import Refusal

SMALL = CohortConfig(patients=11, seed=7, image_size=24)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def same(a, b):
    assert a.id == b.id
    assert (a.labels, a.findings, a.site, a.age) == (b.labels, b.findings, b.site, b.age)
    for name in MODALITIES:
        x, y = a.modalities[name], b.modalities[name]
        if isinstance(x, np.ndarray):
            assert np.array_equal(x, y), name
        else:
            assert x == y, name


def test_a_patient_is_as_the_task_says(cache):
    cohort = make_cohort(SMALL, cache=cache)
    assert len(cohort.patients) == len(cohort) == 11
    for patient in cohort.patients:
        for modality in cohort.task.modalities:
            value = patient.modalities[modality.name]
            if modality.kind == "image":
                assert value.shape == modality.shape
                assert value.dtype == np.float32
                assert type(value) is np.ndarray
                assert np.isfinite(value).all()
            elif modality.kind == "text":
                assert isinstance(value, str)
            else:
                assert list(value) == [f.name for f in modality.fields]
                for field in modality.fields:
                    ok = value[field.name] in field.categories if field.categories else True
                    assert ok, field.name
        assert sum(patient.labels.values()) == 1
        assert set(patient.labels) == set(cohort.task.classes)
        assert tuple(patient.findings) == cohort.task.findings == FINDINGS
    assert len({p.id for p in cohort.patients}) == 11
    assert cohort.task.rare == cohort.task.classes[-3:]
    assert cohort.task.modality("ct").channels == ("+10 cm", "+4 cm", "-1 cm", "-6 cm")
    assert cohort.task.modality("mri").channels == ("T1w", "T2w", "PDw")
    assert sum(cohort.task.prevalence) == pytest.approx(1)


def test_indexing(cache):
    patients = make_cohort(SMALL, cache=cache).patients
    same(patients[-1], patients[10])
    assert [p.id for p in patients[2:5]] == [patients[i].id for i in (2, 3, 4)]
    with pytest.raises(IndexError, match="patient 11 of 11"):
        patients[11]


def test_fresh_cached_and_longer_cohorts_agree(cache, tmp_path):
    fresh = make_cohort(SMALL, cache=tmp_path)
    first = list(fresh.patients)
    longer = make_cohort(dataclasses.replace(SMALL, patients=13), cache=tmp_path)
    for a, b, c in zip(first, make_cohort(SMALL, cache=tmp_path).patients, longer.patients, strict=False):
        same(a, b)
        same(a, c)


def test_the_cache_is_used_and_shared_across_missingness(cache, monkeypatch):
    make_cohort(SMALL, cache=cache).patients[0]

    def refuse(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(render_module, "_render_into", refuse)
    sparse = make_cohort(dataclasses.replace(SMALL, missingness="mcar", rate=0.5), cache=cache)
    assert sum(p.has("ct") for p in sparse.patients) < 11
    with pytest.raises(AssertionError, match="rendered again"):
        make_cohort(dataclasses.replace(SMALL, seed=8), cache=cache).patients[0]


@pytest.mark.parametrize("file", ["ct.npy", "records.jsonl", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "deleted"])
def test_a_damaged_cache_is_rendered_again(tmp_path, file, how):
    expected = make_cohort(SMALL, cache=tmp_path).patients[4]
    path = next(tmp_path.glob("cohort-*")) / file
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"cohort-\w+ is damaged .*rendering it again"):
        same(make_cohort(SMALL, cache=tmp_path).patients[4], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(make_cohort(SMALL, cache=tmp_path).patients[4], expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_rendering_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(render_module.report, "write", stop)
    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left.*RMD_CACHE" if expected is DataError else None):
        make_cohort(SMALL, cache=tmp_path).patients[0]
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_a_file_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"file.*cannot write the cohort's cache.*RMD_CACHE"):
        make_cohort(SMALL, cache=path).patients[0]


def test_the_cache_folder_comes_from_argument_environment_home(monkeypatch, tmp_path):
    monkeypatch.setenv("RMD_CACHE", str(tmp_path / "env"))
    assert render_module.cache_root() == tmp_path / "env"
    assert render_module.cache_root(tmp_path / "arg") == tmp_path / "arg"
    monkeypatch.delenv("RMD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert render_module.cache_root() == tmp_path / ".cache" / "robustmdiff"


@pytest.mark.parametrize("home", ["/proc/nowhere", "a file"])
def test_a_home_that_cannot_be_written_is_warned_of(monkeypatch, tmp_path, cache, home):
    if home == "a file":
        home = tmp_path / "file"
        home.write_text("", encoding="utf-8")
    monkeypatch.delenv("RMD_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(home))
    with pytest.warns(UserWarning, match=r"robustmdiff: cannot be written .*for this process alone; set RMD"):
        made = make_cohort(SMALL).patients[4]
    same(made, make_cohort(SMALL, cache=cache).patients[4])


def test_a_user_without_a_home_has_a_cache_for_the_process(monkeypatch):
    monkeypatch.delenv("RMD_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a number without a name
    folder = render_module.cache_root()
    assert folder.is_dir()
    assert folder == render_module.cache_root()


def test_absent_is_none_and_a_missing_cell_is_not_there(cache):
    config = dataclasses.replace(SMALL, missingness="mar", rate=0.5, cell_rate=0.4)
    cohort = make_cohort(config, cache=cache)
    full = make_cohort(SMALL, cache=cache)
    missing_cells = 0
    for i, (patient, whole) in enumerate(zip(cohort.patients, full.patients, strict=True)):
        for m, name in enumerate(MODALITIES):
            assert patient.has(name) == cohort.presence[i, m]
            if not cohort.presence[i, m]:
                assert patient.modalities[name] is None
        for name in ("structured", "genomic"):
            if patient.has(name):
                values, all_values = patient.modalities[name], whole.modalities[name]
                assert values.items() <= all_values.items()
                missing_cells += len(all_values) - len(values)
                hidden = (
                    ~cohort.cells[i, MODALITIES.index(name)] & cohort.table.visible[MODALITIES.index(name)]
                )
                assert len(all_values) - len(values) == hidden.sum()
    assert missing_cells > 0


def test_the_posterior_never_reads_what_the_cohort_lacks():
    config = CohortConfig(patients=30, missingness="mcar", rate=0.5, cell_rate=0.3)
    cohort = make_cohort(config)
    before = cohort.posterior(np.ones((30, 6), dtype=bool))
    hidden = ~(cohort.presence[..., None] & cohort.cells)
    cohort.evidence[hidden] = np.nan
    cohort.evidence[~cohort.presence] = 1e6
    cohort.evidence[hidden] = 1e6
    np.testing.assert_array_equal(cohort.posterior(np.ones((30, 6), dtype=bool)), before)


def test_degraded_modalities_differ_and_the_others_do_not(cache):
    plain = make_cohort(SMALL, cache=cache)
    cohort = make_cohort(dataclasses.replace(SMALL, degraded=0.5), cache=cache)
    assert 0.2 < cohort.degraded.mean() < 0.8
    for i in range(11):
        for m, name in enumerate(MODALITIES[:4]):
            a, b = plain.patients[i].modalities[name], cohort.patients[i].modalities[name]
            equal = np.array_equal(a, b) if m < 3 else a == b
            assert equal == (not cohort.degraded[i, m]), (i, name)


def test_frequency_bands_round_and_err_as_asked():
    frequency = make_cohort(SMALL).table.frequency
    right = frequency_bands(frequency, wrong=0.0)
    values = np.array([value for _, _, value in BANDS], dtype=np.float32)
    assert np.isin(right, values).all()
    assert set(np.unique(right)) <= {np.float32(v) for v in (0.025, 0.17, 0.545, 0.895)}
    np.testing.assert_array_equal(right[frequency >= 0.8], np.float32(0.895))
    np.testing.assert_array_equal(right[(frequency >= 0.3) & (frequency < 0.8)], np.float32(0.545))
    np.testing.assert_array_equal(right[(frequency >= 0.05) & (frequency < 0.3)], np.float32(0.17))
    for wrong in (0.1, 0.15, 0.2):
        perturbed = frequency_bands(frequency, wrong, seed=3)
        assert (perturbed != right).sum() == round(wrong * 12 * 42)
    assert (frequency_bands(frequency, 0.15, 3) != frequency_bands(frequency, 0.15, 4)).any()
    edges = frequency_bands(np.array([[0.0, 0.01, 0.049, 0.29, 0.30, 0.99, 1.0]]), wrong=0.0)
    np.testing.assert_array_equal(edges[0], values[[0, 1, 1, 2, 3, 4, 5]])


def test_concepts_are_diseases_then_findings():
    cohort = make_cohort(SMALL)
    concepts = cohort.concepts(wrong=0.2, seed=9)
    assert concepts.name == cohort.task.classes + FINDINGS
    assert len(set(concepts.id)) == 54
    assert concepts.kind == ("disease",) * 12 + ("finding",) * 42
    np.testing.assert_allclose(concepts.prevalence[:12], cohort.table.prevalence, rtol=1e-6)
    assert np.isnan(concepts.prevalence[12:]).all()
    np.testing.assert_array_equal(concepts.frequency, cohort.frequency_bands(0.2, 9))
    edges = {
        (int(s), int(t), concepts.relations[r])
        for s, t, r in zip(concepts.source, concepts.target, concepts.relation, strict=True)
    }
    assert len(edges) == len(concepts.source)
    for s, t, name in edges:
        assert (t, s, {"has_phenotype": "phenotype_of", "phenotype_of": "has_phenotype"}[name]) in edges
    stated = {(s, t) for s, t, name in edges if name == "has_phenotype"}
    expected = {(c, 12 + f) for c in range(1, 12) for f in range(42) if concepts.frequency[c, f] > 0.05}
    assert stated == expected


OPTIONS = [{"aligned": True}, {"lateral": True}, {"aligned": True, "lateral": True}]


def bytes_of(cohort):
    """Every array and text that is rendered."""
    images = {name: array.tobytes() for name, array in cohort.rendering.images.items()}
    return images | {f"record {i}": record for i, record in enumerate(cohort.rendering.records)}


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_changes_only_what_it_names(cache, options):
    """The default cohort has the same bytes as before there were options, by those that they share."""
    default = bytes_of(make_cohort(SMALL, cache=cache))
    made = make_cohort(dataclasses.replace(SMALL, **options), cache=cache)
    with_options = bytes_of(made)
    assert set(with_options) - set(default) == ({"xray_lateral"} if "lateral" in options else set())
    differ = {name for name in default if with_options[name] != default[name]}
    assert differ == ({"mri"} if "aligned" in options else set())
    assert made.task.modality_names == MODALITIES + (("xray_lateral",) if "lateral" in options else ())


def test_the_default_cohort_is_the_one_that_results_were_made_with(cache):
    """Weighted means of the first patient's pixels, printed by this loop before there were options; to a
    thousandth, as float16 has three digits."""
    weight = np.cos(np.arange(24 * 24)).reshape(24, 24)
    images = make_cohort(SMALL, cache=cache).rendering.images
    for name, expected in {"xray": 0.000402, "ct": 0.858571, "mri": 0.003247}.items():
        image = images[name][0].astype(np.float64)
        assert (image * weight).mean() == pytest.approx(expected, abs=1e-3 * np.abs(image).mean()), name


def test_a_lateral_view_is_present_and_poor_where_the_frontal_one_is(cache):
    config = dataclasses.replace(SMALL, lateral=True, missingness="mcar", rate=0.5, degraded=0.4)
    cohort = make_cohort(config, cache=cache)
    plain = make_cohort(dataclasses.replace(config, lateral=False), cache=cache)
    assert {patient.has("xray") for patient in cohort.patients} == {True, False}
    for patient, without in zip(cohort.patients, plain.patients, strict=True):
        assert patient.has("xray_lateral") == patient.has("xray")
        same(patient, without)
    for mask in (cohort.presence, cohort.degraded, cohort.mask("mnar", 0.5, 1, keep_one=True)):
        assert mask.shape == (11, 7)
        assert (mask[:, 6] == mask[:, 0]).all()
        assert 0 < mask[:, 6].mean() < 1
    batch = Collator(cohort.task, train_tokenizer(["a"]))(list(cohort.patients))
    np.testing.assert_array_equal(batch.presence, cohort.presence)


def test_an_aligned_mri_reads_what_ct_reads(cache):
    cohort = make_cohort(dataclasses.replace(SMALL, aligned=True), cache=cache)
    readings = cohort.drawn.readings
    np.testing.assert_array_equal(readings[:, MODALITIES.index("mri")], readings[:, MODALITIES.index("ct")])
    before = make_cohort(SMALL, cache=cache).drawn.readings
    np.testing.assert_array_equal(np.delete(readings, 2, axis=1), np.delete(before, 2, axis=1))


@pytest.mark.parametrize("options", OPTIONS)
def test_where_one_image_shows_a_part_of_another_there_is_no_ceiling(cache, options):
    cohort = make_cohort(dataclasses.replace(SMALL, **options), cache=cache)
    with pytest.raises(
        Refusal, match=r"aligned is \w+ and lateral \w+, expected both False: .* is not known"
    ):
        cohort.posterior()
    with pytest.raises(Refusal, match="expected both False"):
        reader_check(cohort)


@pytest.mark.slow  # hundreds of rendered patients
def test_the_reader_recovers_the_readings(tmp_path):
    """On 64 x 64 images from 300 patients the small ridge reader is already close to the target
    of .98 (docs/cohort.md has the table of 1,250); a shuffled reader knows nothing."""
    cohort = make_cohort(CohortConfig(patients=600, seed=3), cache=tmp_path)
    rows = np.arange(300, 600)
    reader = Reader.fit(cohort, np.arange(300))
    check = reader.check(cohort, rows)
    for m, name in enumerate(MODALITIES):
        assert list(check[name]) == [FINDINGS[f] for f in np.flatnonzero(cohort.table.visible[m])]
        assert np.mean(list(check[name].values())) > 0.95, name
    exact, read = cohort.posterior(index=rows), reader.ceiling(cohort, index=rows)
    np.testing.assert_allclose(read.sum(axis=1), 1)
    label = cohort.labels[rows]
    loss = [-np.log(p[label]).mean() for p in (exact, read)]
    assert loss[0] < loss[1] < 2 * loss[0] + 0.1
    mask = cohort.mask("mcar", 0.5, seed=1)[rows]
    some = reader.ceiling(cohort, mask, rows)
    assert -np.log(some[label]).mean() > loss[1]
    # Another cohort's patients, read by this reader.
    other = make_cohort(CohortConfig(patients=20, seed=4), cache=tmp_path)
    assert reader.ceiling(other).shape == (20, 12)
    with pytest.raises(ValueError, match="10 patients have 'xray', expected at least 50"):
        reader_check(other)
