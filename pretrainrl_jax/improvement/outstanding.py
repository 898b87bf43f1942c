"""What judge and rewriter are asked about a step's documents, and what comes of their answers."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.improvement import learning
from pretrainrl_jax.improvement.experience import Sampled
from pretrainrl_jax.improvement.jobs import Jobs
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.judging.protocol import Case, Judge, RewriteCase, Rewriter, Verdicts
from pretrainrl_jax.trees.tokenization import Tokenizer

TOLD_SECONDS = 5.0  # after which processes that wait for process 0 are told that it still waits

Answer = tuple[list[Any], list[Any] | None]
"""As JSON holds it: of each document the rewrite's [tokens, text] or None; and the fields of `Verdicts`."""


class Written(NamedTuple):
    """A document as texts."""

    cut: Cut
    text: RewriteCase | None  # None where nobody is asked about it
    candidates: tuple[learning.Candidate, ...]  # without a rewrite


@dataclass(frozen=True)
class Asking:
    """Who is asked; None: nobody is.

    Args:
        tokenizer: of no other thread: a tokenizer's backend refuses two at once ("Already borrowed").
        by_model: the rewriter is a model, which must give a suffix that is safe back as it was.
    """

    judge: Judge | None
    rewriter: Rewriter | None
    tokenizer: Tokenizer
    by_model: bool = False
    _borrowed: Lock = field(default_factory=Lock)  # by one of several jobs

    @property
    def asks(self) -> bool:
        """Whether anybody is asked."""
        return bool(self.judge or self.rewriter)

    def answer(self, written: Sequence[Written]) -> Answer:
        """Ask about these documents, in any thread: for rewrites, then for verdicts."""
        rewrites: list[learning.Candidate | None] = [None] * len(written)
        cases = [one.text for one in written if one.text]
        if self.rewriter:
            texts = self.rewriter(cases)
            with self._borrowed:
                rewrites = [
                    learning.rewritten(one.cut, self.tokenizer, text)
                    for one, text in zip(written, texts, strict=True)
                ]
        told = [rewrite and [list(rewrite.tokens), rewrite.text] for rewrite in rewrites]
        if not self.judge:
            return told, None
        every = map(learning.with_rewrite, (one.candidates for one in written), rewrites)
        judged = [
            Case(
                prefix,
                tuple(candidate.text for candidate in own),
                suffix,
                tuple(candidate.tokens[-1] in self.tokenizer.eos for candidate in own),
            )
            for (prefix, suffix), own in zip(cases, every, strict=True)
        ]
        return told, list(self.judge(judged))


class Outstanding:
    """The documents of steps that are being judged; the first that were asked about are taken first.

    Where `jobs` has threads process 0 asks, and tells the others; where it has none all ask as they take.
    `length`: tokens of a whole document that is learned, at most.
    """

    def __init__(
        self, asking: Asking, jobs: Jobs, method: MethodConfig, tokenizer: Tokenizer, length: int
    ) -> None:
        self._asking, self._jobs = asking, jobs
        self._method, self._tokenizer, self._length = method, tokenizer, length
        self._steps: deque[tuple[list[Written], Future[Answer] | None]] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def ask(self, sampled: Sampled) -> None:
        """Begin to ask about the documents of a step."""
        kinds, tokenizer = self._method.candidates, self._tokenizer
        written = [
            Written(
                cut,
                learning.rewrite_case(tokenizer, cut) if self._asking.asks else None,
                learning.candidates_of(cut, kinds, tokenizer, own),
            )
            for cut, own in zip(sampled.cuts, sampled.rollouts, strict=True)
        ]
        asks = is_process_0() or not self._jobs.workers
        job = self._jobs.submit(lambda: self._asking.answer(written)) if asks else None
        self._steps.append((written, job))

    def take(self, stops: Callable[[], bool]) -> list[Judged] | None:
        """The documents that were asked about first, once they are judged; None where process 0 stops before.

        All processes must come here together. Raises what judge and rewriter raise: an InputError or OSError
        in all processes, anything else in process 0.
        """
        written, job = self._steps[0]

        def wait() -> list[Any]:
            assert job is not None  # of process 0
            if self._jobs.wait(job, TOLD_SECONDS, stops):
                return ["done", job.result()]
            return ["stops" if stops() else "waits", None]

        state, answer = run_on_process_0(wait, "judging") if self._jobs.workers else wait()
        while state == "waits":  # said anew, so that the others do not take it for a stall
            state, answer = run_on_process_0(wait, "judging")
        if state == "stops":
            return None
        self._steps.popleft()
        return self._judged(written, answer)

    def _judged(self, written: Sequence[Written], answer: Answer) -> list[Judged]:
        """What the answer says of each document's candidates, and the tree that is learned of it."""
        told, verdicts = answer
        method, tokenizer, result = self._method, self._tokenizer, list[Judged]()
        given = Verdicts(*verdicts) if verdicts else None
        for place, (one, text) in enumerate(zip(written, told, strict=True)):
            rewrite = text and learning.Candidate("rewrite", tuple(text[0]), text[1])
            cut, own = one.cut, learning.with_rewrite(one.candidates, rewrite)
            if given is None or one.text is None:
                (kind,) = method.candidates
                ends = tokenizer.bos, tokenizer.eos[0]
                tree = learning.plain_tree(cut, kind, own, *ends, self._length)
                result.append(Judged(cut, "", own, (), {}, tree))
                continue
            scores, counts = tuple(given.scores[place]), given.counts[place]
            parts = {name: tuple(of_part[place]) for name, of_part in given.parts.items()}
            if self._asking.by_model and "rewrite" in method.candidates:
                scores, of_rewrite = without_needless(own, rewrite, scores, parts.get("safety", ()))
                counts = {**counts, **of_rewrite}
            tree = learning.judged_tree(cut, own, scores, method.contrasts)
            result.append(Judged(cut, one.text.prefix, own, scores, parts, tree, counts))
        return result


def without_needless(
    candidates: Sequence[learning.Candidate],
    rewrite: learning.Candidate | None,
    scores: tuple[float | None, ...],
    safety: Sequence[float | None],
) -> tuple[tuple[float | None, ...], dict[str, float]]:
    """The scores without that of a rewrite of a suffix which the judge calls safe; and what is counted of it.

    Whether it is safe is known where the original is a candidate and judged so. `safety`: of each candidate;
    empty where nobody asks.
    """
    counts = {"rewrite.asked": 1.0, "rewrite.used": float(rewrite is not None)}
    original = next((place for place, one in enumerate(candidates) if one.kind == "original"), None)
    if original is None or not safety or (safe := safety[original]) is None or safe < 0.5:
        return scores, counts
    copied = rewrite is not None and rewrite.text == candidates[original].text
    counts |= {"rewrite.safe": 1.0, "rewrite.safe_copied": float(copied)}
    kept = (None if one.kind == "rewrite" else score for one, score in zip(candidates, scores, strict=True))
    return tuple(kept), counts
