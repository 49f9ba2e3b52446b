"""The model of an A/B comparison, plain and interrupted, on one set of weights."""

from rubrica.core.errors import UsageError
from rubrica.core.pieces import Pieces, estimated
from rubrica.judges.factory import JudgeConfig, server_of
from rubrica.recipes.interrupt_ab import Subject
from rubrica.recipes.interruptions import ContextGenerator, Fences, InterruptedModel
from rubrica.recipes.options import ModelSource
from rubrica.recipes.surroundings import default_surroundings


def open_subject(
    model: str, plan: InterruptedModel, pieces: Pieces | None = None, *, batch_size: int = 16
) -> Subject:
    """Open a directory, a hub id, ``lab:NAME`` or ``openai:MODEL@URL``; ``pieces`` None: its own, of a server estimated.

    ``UsageError`` for a server where the plan interrupts what is written: only a local model can be.
    """
    fences = Fences(plan)
    if server := server_of(model):
        if plan.reasoning is not None or plan.output is not None:
            raise UsageError(
                f"model {model!r}: a server's answers cannot be interrupted; leave reasoning and output out of the plan"
            )
        from rubrica.recipes.writer import server_writer

        asked = server_writer(server, JudgeConfig(spec=model))
        cut = pieces or estimated
        return Subject(asked, ContextGenerator(asked, plan, cut, fences), cut)
    from rubrica.checkpoint import load_checkpoint
    from rubrica.models.hf import HFGenerator  # torch, only where it is used
    from rubrica.models.pieces import token_pieces
    from rubrica.recipes.forced import ForcedGenerator, InterruptedGenerator, fitting
    from rubrica.recipes.models import load_chat_format, model_folder

    folder = model_folder(ModelSource(model=model), default_surroundings())
    tokenizer = load_chat_format(folder).tokenizer
    weights, _ = load_checkpoint(folder)
    cut, fitted = pieces or token_pieces(tokenizer), fitting(plan, tokenizer)
    plain = HFGenerator(weights, tokenizer, batch_size=batch_size, name=model)
    forced = ForcedGenerator(weights, tokenizer, fitted, fences, batch_size=batch_size, name=model)
    return Subject(plain, InterruptedGenerator(forced, fitted, cut, fences), cut)
