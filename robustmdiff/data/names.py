"""What may be a name of a class, a finding, a category, a field or a modality."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical

BREAKING = ("Cc", "Cs", "Zl", "Zp")  # control characters, half a surrogate pair, line separators
SYNTAX = './\\:+=,;<>"|?*'  # of columns, options, tables and file names, where modalities are named
TAKEN = frozenset(  # by torch.nn.ModuleDict: encoders lie in one, each under its modality's name
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu
    items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters
    parameters pop register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to
    to_empty train training type update values xpu zero_grad

    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
    _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _get_backward_hooks _get_backward_pre_hooks _get_name _is_full_backward_hook _load_from_state_dict
    _load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules
    _named_members _non_persistent_buffers_set _parameters _register_load_state_dict_pre_hook
    _register_state_dict_hook _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks
    _state_dict_pre_hooks _version _wrapped_call_impl
    """.split()  # noqa: SIM905
)


def check_name(name: str, what: str) -> None:
    """ValueError, which begins with `what`, unless it is text with something to read in it, in one line
    and without blanks around."""
    if not isinstance(name, str):
        raise Refusal(f"{what} is {name!r}, expected text")
    if not canonical(name):
        raise Refusal(f"{what} is {name!r}, expected a name that is not empty")
    if name != name.strip() or any(unicodedata.category(letter) in BREAKING for letter in name):
        raise Refusal(f"{what} is {name!r}, expected a name without blanks around it, in one line")


def check_names(names: Sequence[str], what: str) -> None:
    """ValueError unless each of `names` is a name and no two are the same one."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        check_name(name, f"{what}[{i}]")
        first = seen.setdefault(canonical(name), i)
        if first != i:
            raise Refusal(f"{what}[{i}] is {name!r}, the same name as [{first}], expected distinct names")


def check_modality_name(name: str) -> None:
    """ValueError for a name that would not do as a column, in an option, as a file and as a module."""
    check_name(name, "Modality: name")
    if set(name) & set(SYNTAX):
        raise Refusal(f"Modality: name is {name!r}, expected a name without any of {SYNTAX}")
    if name in TAKEN or (name.startswith("__") and name.endswith("__")):
        raise Refusal(f"Modality: name is {name!r}, which torch.nn.ModuleDict uses itself, expected another")
