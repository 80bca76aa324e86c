"""What a cohort is drawn from: everything that decides its patients, in one hashable record."""

from __future__ import annotations

from dataclasses import dataclass

from robustmdiff.refusal import Refusal

KINDS = ("none", "mcar", "mar", "mnar")
DEVELOPED_ON = (0,)  # table seeds whose results shaped the model: its numbers there are flattered


@dataclass(frozen=True)
class CohortConfig:
    """Settings of the built-in cohort; the same settings give the same patients.

    patients        patients drawn at the true prevalence. Patient i does not depend on it.
    seed            of the patients; training and test cohorts differ here.
    table_seed      of the disease table: 0 is the table with clinically plausible profiles, any
                    other seed draws which findings belong to which disease as well.
    image_size      pixels along each side of every image.
    missingness     of whole modalities: "none", "mcar" (completely at random), "mar" (depends on
                    site and age), "mnar" (depends on severity, which nobody observes).
    rate            share of modalities missing, averaged over the population.
    cell_rate       share of single values missing in a panel that is present; the same kind.
    degraded        share of modalities that are blurred, noisier, truncated or mistyped.
    rare_per_class  None, or the number of patients that each rare class has at least: more are
                    appended, and `Cohort.weights` leads back to the true prevalence.
    multilabel      diseases occur independently and findings follow a noisy-OR.
    correlation     between findings of one organ, given the disease (see `organs`): 0 is independence.
    aligned         the MRI is an axial slice in the plane of a CT slice (`imaging.ALIGNED_LEVEL`) and shows
                    the same lesions, so that one can be translated into the other.
    lateral         every X-ray has a lateral view of the same lesions, the modality "xray_lateral": the last
                    one, present and of poor quality where the frontal view is.
    """

    patients: int = 1500
    seed: int = 0
    table_seed: int = 0
    image_size: int = 64
    missingness: str = "none"
    rate: float = 0.0
    cell_rate: float = 0.0
    degraded: float = 0.0
    rare_per_class: int | None = None
    multilabel: bool = False
    correlation: float = 0.0
    aligned: bool = False
    lateral: bool = False

    def __post_init__(self) -> None:
        if self.missingness not in KINDS:
            raise Refusal(f"missingness is {self.missingness!r}, expected one of {', '.join(KINDS)}")
        for name in ("rate", "cell_rate", "degraded", "correlation"):
            if not 0 <= getattr(self, name) < 1:
                raise Refusal(f"{name} is {getattr(self, name)}, expected a number in [0, 1)")
        if self.missingness == "none" and (self.rate or self.cell_rate):
            raise Refusal(
                f"missingness is 'none' but rate is {self.rate} and cell_rate is {self.cell_rate}; "
                "expected both 0, or missingness 'mcar', 'mar' or 'mnar'"
            )
        for name, low in (("patients", 1), ("seed", 0), ("table_seed", 0), ("image_size", 16)):
            if getattr(self, name) < low:
                raise Refusal(f"{name} is {getattr(self, name)}, expected at least {low}")
        if self.rare_per_class is not None and self.rare_per_class < 1:
            raise Refusal(f"rare_per_class is {self.rare_per_class}, expected None or at least 1")
        if self.rare_per_class is not None and self.multilabel:
            raise Refusal("rare_per_class needs one label per patient, but multilabel is True")

    @property
    def exact(self) -> bool:
        """Whether the best possible diagnosis is known. It is where each modality shows readings of its own,
        all of them: one plane, or a view from the side, shows some of another's."""
        return not (self.aligned or self.lateral)
