"""Switching token dropping on and off on a transformers model.

Three methods of the one instance are wrapped: `generate` refuses what dropping cannot do before anything runs, `forward` decides
whether a call is a prefill that drops, a step on what one left, or neither, and the decoder's `forward` carries the first two out.
Neither: the model's own code runs, as if nothing had been enabled.
"""

import functools
import inspect
import os
import threading
import warnings

import torch

from . import library as library_module
from . import schedule as schedules
from . import structures as up
from .errors import ScheduleError, SyntheticKeepWarning, UniPrefillError, UnsupportedError
from .families import Angles, describe
from .fingerprint import fingerprint
from .forward import Forward
from .rows import unpad

_MARK = "_uniprefill"


def enable(model, schedule=None, *, keep=None, keep_seed=0, directory=None):
    """Makes a transformers model prefill with token dropping, and `generate` go on from what is kept.

    model: a LlamaForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM or Qwen3_5ForCausalLM on one CUDA device, in bf16 or f16.
    schedule: a path, a dict as in a schedule file, a Schedule, `preset:NAME`, or None for the uniprefill.json beside the weights.
    keep: SYNTHETIC. A share of the prompt's rows for each drop layer: blocks are then kept at random, which is for timing models
        with random weights; answers are worthless. Warns with SyntheticKeepWarning.
    directory: of the weights, where the model does not know it, to compare the schedule's fingerprint with.

    Returns the model. Calling it again changes the schedule. Fails with UnsupportedError, ScheduleError or LibraryError, and then
    leaves the model as it was.
    """
    _check_transformers()
    table = describe(model)
    directory = directory or _directory_of(model)
    plan = schedules.resolve(schedule, directory)
    plan.check([layer.kind for layer in table.layers])
    if plan.model is not None:
        _check_fingerprint(plan, directory)
    if keep is not None:
        keep = _check_keep(keep, plan)
    library_module.library().require(up.CUDA if table.device.type == "cuda" else up.REFERENCE)
    disable(model)
    state = _State(model, table, plan, keep, keep_seed)
    state.attach()
    return model


def disable(model):
    """Undoes `enable`; the model is what it was before. Does nothing to a model that is not enabled. Returns the model."""
    state = model.__dict__.get(_MARK)
    if state is not None:
        state.detach()
    return model


def is_enabled(model):
    return _MARK in model.__dict__


def _check_transformers():
    try:
        import transformers
    except ImportError:
        raise UniPrefillError("transformers is not installed; uniprefill.enable needs transformers 5.17") from None
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not (5, 17) <= version < (6, 0):
        raise UnsupportedError(f"transformers {transformers.__version__} is not supported: install transformers 5.17 or a later 5")


def _directory_of(model):
    """The folder of a model's weights, or None."""
    name = getattr(model.config, "_name_or_path", "") or ""
    if os.path.isdir(name):
        return name
    if not name:
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "config.json", local_files_only=True)
    except OSError:
        return None
    return os.path.dirname(found) if found else None


def _check_fingerprint(plan, directory):
    if directory is None:
        raise ScheduleError(
            f"{plan.source}: it was made for the model {plan.model}, and this model's weights have no known directory to compare "
            "with; pass directory="
        )
    own = fingerprint(directory)
    if own != plan.model:
        raise ScheduleError(
            f"{plan.source}: it was made for the model {plan.model}, this one ({directory}) is {own}: which layers may drop is a "
            "property of the weights; make a schedule for it with `uniprefill calibrate`"
        )


def _check_keep(keep, plan):
    shares = [float(share) for share in keep]
    if len(shares) != len(plan.drop_layers) or not all(0 < share <= 1 for share in shares):
        raise ScheduleError(f"keep: {keep!r} is not a share in (0, 1] for each of the {len(plan.drop_layers)} drop layers")
    if any(after > before for before, after in zip(shares, shares[1:])):
        raise ScheduleError(f"keep: {keep!r} rises; a row that is dropped does not come back")
    warnings.warn("uniprefill: keep= keeps blocks at random: synthetic, for timing only", SyntheticKeepWarning, stacklevel=3)
    return shares


class _State:
    """What `enable` leaves on a model."""

    def __init__(self, model, table, plan, keep, keep_seed):
        from transformers.modeling_outputs import BaseModelOutputWithPast

        from .cache import KeptCache

        self.schedule, self.keep = plan, keep
        self._model, self._base, self._table = model, table.base, table
        self._forward = Forward(table, plan, Angles(table), keep, keep_seed)
        self._weights = table.final_norm.weight.data_ptr()
        self._cache_class, self._output_class = KeptCache, BaseModelOutputWithPast
        self._signature = inspect.signature(model.forward)
        self._base_signature = inspect.signature(table.base.forward)
        self._call = threading.local()
        self._wrapped = {}

    def attach(self):
        for owner, name, wrapper in (
            (self._base, "forward", self._base_forward),
            (self._model, "forward", self._model_forward),
            (self._model, "generate", self._generate),
        ):
            had = owner.__dict__.get(name)
            original = getattr(owner, name)
            replacement = functools.wraps(original)(functools.partial(wrapper, original))
            self._wrapped[owner, name] = (had, replacement)
            owner.__dict__[name] = replacement
        self._model.__dict__[_MARK] = self

    def detach(self):
        for (owner, name), (had, replacement) in self._wrapped.items():
            if owner.__dict__.get(name) is not replacement:
                raise UniPrefillError(f"{type(owner).__name__}.{name} was wrapped again after enable; unwrap that first")
        for (owner, name), (had, _) in self._wrapped.items():
            if had is None:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = had
        del self._model.__dict__[_MARK]

    # ------------------------------------------------------------------------------------------------ what is asked

    def _generate(self, original, *args, **kwargs):
        config = kwargs.get("generation_config") or self._model.generation_config

        def asked(name):
            value = kwargs.get(name)
            return getattr(config, name, None) if value is None else value

        refused = {
            "beam search (num_beams)": (asked("num_beams") or 1) > 1,
            "assisted decoding (assistant_model)": kwargs.get("assistant_model") is not None,
            "assisted decoding (prompt_lookup_num_tokens)": asked("prompt_lookup_num_tokens") is not None,
            "assisted decoding (assistant_early_exit)": asked("assistant_early_exit") is not None,
            "assisted decoding (use_mtp)": bool(asked("use_mtp")),
            "contrastive search (penalty_alpha)": (asked("penalty_alpha") or 0) > 0,
            "DoLa decoding (dola_layers)": asked("dola_layers") is not None,
            "classifier-free guidance (guidance_scale)": (asked("guidance_scale") or 1) != 1,
            "prefill in chunks (prefill_chunk_size)": asked("prefill_chunk_size") is not None,
            f"cache_implementation={asked('cache_implementation')!r}": asked("cache_implementation") not in (None, "dynamic"),
            "generate with output_attentions": bool(asked("output_attentions")),
            "generate with output_hidden_states": bool(asked("output_hidden_states")),
            "custom_generate": kwargs.get("custom_generate") is not None,
        }
        for what, is_asked in refused.items():
            if is_asked:
                raise UnsupportedError(f"{what} is not supported with token dropping: leave it out, or uniprefill.disable(model)")
        given = kwargs.get("past_key_values")
        if given is not None and self._length_of(given) == 0:
            raise UnsupportedError(
                "past_key_values without content are not supported with token dropping: a prefill that drops makes its own cache, "
                "which generate returns with return_dict_in_generate=True; leave past_key_values out"
            )
        return original(*args, **kwargs)

    @torch.compiler.disable
    def _model_forward(self, original, *args, **kwargs):
        bound = self._signature.bind(*args, **kwargs).arguments
        asked = {**bound, **bound.get("kwargs", {})}
        what = self._what(asked)
        if what is None:
            return original(*args, **kwargs)
        self._check_unmoved()
        self._call.what = what
        try:
            return original(*args, **kwargs)
        finally:
            self._call.what = None

    def _what(self, asked):
        """`decode` on what a prefill with dropping left, `prefill` with dropping, or None: the model's own."""
        past = asked.get("past_key_values")
        ids, embeds = asked.get("input_ids"), asked.get("inputs_embeds")
        shape = ids.shape if ids is not None else embeds.shape[:2] if embeds is not None else None
        if isinstance(past, self._cache_class):
            if shape is None or shape[1] != 1 or shape[0] != past.store.batch:
                raise UnsupportedError(
                    f"input of shape {None if shape is None else tuple(shape)} on a KeptCache of {past.store.batch} requests is not "
                    "supported: it goes on by one token a request. To append a turn, generate from the whole conversation"
                )
            return "decode"
        uses_cache = asked.get("use_cache")
        uses_cache = self._model.config.use_cache if uses_cache is None else uses_cache
        if shape is None or not uses_cache or asked.get("labels") is not None or torch.is_grad_enabled():
            return None
        keeps = asked.get("logits_to_keep", 0)
        if isinstance(keeps, torch.Tensor) or keeps != 1 or shape[1] < self.schedule.min_prompt_tokens:
            return None
        if not self.schedule.drop_layers:
            return None
        if past is not None:
            self._check_cache(past)
            if self._length_of(past) > 0:
                return None
        for name in ("output_attentions", "output_hidden_states"):
            value = asked.get(name)
            if getattr(self._model.config, name, False) if value is None else value:
                raise UnsupportedError(f"{name} is not supported with token dropping: dropped rows have none; uniprefill.disable(model)")
        return "prefill"

    def _check_cache(self, past):
        from transformers.cache_utils import DynamicCache

        if type(past) is not DynamicCache or getattr(past, "offloading", False):
            what = f"{type(past).__name__}{' with offloading' if getattr(past, 'offloading', False) else ''}"
            raise UnsupportedError(f"a cache of class {what} is not supported with token dropping: leave past_key_values out")

    @staticmethod
    def _length_of(past):
        length = past.get_seq_length()
        return int(length)

    def _check_unmoved(self):
        if self._table.final_norm.weight.data_ptr() != self._base.norm.weight.data_ptr():
            raise UnsupportedError("the model was moved or given other weights after enable; call uniprefill.enable again")

    # ------------------------------------------------------------------------------------------------ what is done

    @torch.compiler.disable
    def _base_forward(self, original, *args, **kwargs):
        what = getattr(self._call, "what", None)
        if what is None:
            return original(*args, **kwargs)
        asked = self._base_signature.bind(*args, **kwargs).arguments
        ids, embeds, past = (asked.get(name) for name in ("input_ids", "inputs_embeds", "past_key_values"))
        with torch.no_grad():
            if what == "decode":
                rows = self._base.embed_tokens(ids) if embeds is None else embeds
                last = self._forward.decode(rows[:, 0], past.store)
                past.store.seen += 1
                return self._output_class(last_hidden_state=last[:, None], past_key_values=past)
            shape = ids.shape if embeds is None else embeds.shape[:2]
            lengths, mask = unpad(asked.get("attention_mask"), shape, self._table.device)
            if max(lengths) < self.schedule.min_prompt_tokens:
                return original(*args, **kwargs)
            positions = self._positions(asked.get("position_ids"), shape, lengths, mask)
            last, store = self._forward.prefill(self._rows(ids, embeds, mask), positions, lengths)
            store.seen = shape[1]
            return self._output_class(last_hidden_state=last[:, None], past_key_values=self._cache_class(store))

    def _rows(self, input_ids, inputs_embeds, mask):
        if inputs_embeds is not None:
            return inputs_embeds.flatten(0, 1) if mask is None else inputs_embeds[mask]
        return self._base.embed_tokens(input_ids.flatten() if mask is None else input_ids[mask])

    def _positions(self, position_ids, shape, lengths, mask):
        """int32 [rows]: those given, or each prompt's from 0."""
        if position_ids is None:
            return torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths]).to(self._table.device)
        if position_ids.dim() == 3:
            position_ids = position_ids[0]
        position_ids = position_ids.expand(shape)
        return (position_ids.flatten() if mask is None else position_ids[mask]).int()
