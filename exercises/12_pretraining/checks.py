"""Checks for the exercises of chapter 12, and the wrong answers that they are proved against.

    N tokens of the stream   B windows of a batch   T tokens of a window   V vocabulary

Each check draws its cases from a seed. Models are tables in float64, small enough that the
right answer and what each frequent mistake would give are computed beside the learner's.
"""

import copy
import math
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.answers import call


def _pair(y, name):
    """idx and targets: two tensors of ids, or a sentence."""
    assert type(y) in (tuple, list) and len(y) == 2, (
        f"{name} returned a {type(y).__name__}, not idx and targets: is a return missing?"
    )
    for part, of in zip(y, ("idx", "targets")):
        assert type(part) is torch.Tensor, f"{of} is a {type(part).__name__}: a tensor was due."
        assert not part.is_floating_point(), (
            f"{of} holds floats, of {part.dtype}: an id is the number of a row, and there is no "
            "row between two. Which step made them floats? Look at what torch.zeros or a division "
            "gives back."
        )
        assert part.dtype == torch.int64, (
            f"{of} is of {part.dtype}, but ids must be torch.int64: an embedding cannot be looked "
            "up by anything else. Is the .long() missing?"
        )
    return y


# 1 Batches ------------------------------------------------------------------------------


def check_my_get_batch(my_get_batch, seed=0):
    """Windows from every place where one fits, the last included; targets one token later."""
    torch.manual_seed(seed)
    N, T, B = 13, 5, 40
    tokens = torch.randperm(N).to(torch.int32) + 100  # all different: each tells its place
    place = {token: at for at, token in enumerate(tokens.tolist())}
    starts = set()
    for _ in range(8):
        idx, targets = _pair(
            call(my_get_batch, tokens, B, T, hint="Does a window reach past the last token?"),
            "my_get_batch",
        )
        assert idx.shape == targets.shape == (B, T), (
            f"idx is {tuple(idx.shape)} and targets {tuple(targets.shape)}, but both should be "
            f"{(B, T)}: B windows of T tokens. How long must a slice be to give both?"
        )
        for row, answers in zip(idx.tolist(), targets.tolist()):
            at = [place.get(token, -1) for token in (*row, answers[-1])]
            assert row != answers, (
                "The targets are the inputs themselves: a model learns from them to copy, and its "
                "loss falls to 0. By how many tokens must they be shifted?"
            )
            assert all(b == (a + 1) % N for a, b in pairwise(at)) and answers[:-1] == row[1:], (
                "A row is not a run of neighbouring tokens with targets one token later: which "
                "index runs along the time, and which along the batch?"
            )
            assert all(a < b for a, b in pairwise(at)), (
                "A window runs over the end of the stream and goes on at its beginning, as a "
                "negative index or a modulo does: the two have nothing to do with each other. "
                "What is the last place at which T + 1 tokens are left?"
            )
            starts.add(at[0])
        assert len({tuple(row) for row in idx.tolist()}) > 1, (
            "All windows of a batch are the same one: is one start drawn for all rows, in place of "
            "one for each?"
        )
    assert N - T - 1 in starts, (
        f"In 320 draws the last window, which begins at token {N - T - 1} of {N}, never came: the "
        "last token is never a target. Does your random number exclude its upper end already?"
    )
    missing = set(range(N - T)) - starts
    assert not missing, (
        f"In 320 draws no window ever began at the tokens {sorted(missing)}: a model would see "
        "them only at some positions. Are the starts multiples of something?"
    )
    for _ in range(30):
        call(my_get_batch, tokens[: T + 1], 3, T, hint=(
            f"There were {T + 1} tokens, enough for one window of {T} and its targets. Does a "
            "window begin where no target is left for its last token?"
        ))  # fmt: skip


def _batch_by(starts, tokens, T, shift=1):
    rows = tokens[starts + torch.arange(T + 1)]
    rows = rows if rows.is_floating_point() else rows.long()
    return rows[:, :T], rows[:, shift : T + shift]


def _batch_not_shifted(tokens, B, T):
    return _batch_by(torch.randint(len(tokens) - T, (B, 1)), tokens, T, shift=0)


def _batch_without_the_last(tokens, B, T):
    return _batch_by(torch.randint(max(1, len(tokens) - T - 1), (B, 1)), tokens, T)


def _batch_past_the_end(tokens, B, T):
    return _batch_by(torch.randint(len(tokens) - T + 1, (B, 1)), tokens, T)


def _batch_wraps(tokens, B, T):
    places = (torch.randint(len(tokens), (B, 1)) + torch.arange(T + 1)) % len(tokens)
    rows = tokens.long()[places]
    return rows[:, :-1], rows[:, 1:]


def _batch_one_start(tokens, B, T):
    return _batch_by(torch.randint(len(tokens) - T, (1, 1)).expand(B, 1), tokens, T)


def _batch_side_by_side(tokens, B, T):
    return _batch_by(
        T * torch.randint(-(-(len(tokens) - T) // T), (B, 1)) + (len(tokens) - T - 1) % T, tokens, T
    )


def _batch_of_floats(tokens, B, T):
    return _batch_by(torch.randint(len(tokens) - T, (B, 1)), tokens.double(), T)


def _batch_of_int32(tokens, B, T):
    return tuple(
        part.int() for part in _batch_by(torch.randint(len(tokens) - T, (B, 1)), tokens, T)
    )


# 2 Whole documents ----------------------------------------------------------------------


def check_my_documents(my_documents, seed=0):
    """A row a document: eot and the text in, the text and eot out, −1 where nothing is asked."""
    g = torch.Generator().manual_seed(seed)
    V, eot = 50, 50
    lengths = torch.randperm(5, generator=g).tolist()
    documents = [torch.randint(V, (3 + 2 * n,), generator=g).tolist() for n in lengths]
    tokens = [token for document in documents for token in (eot, *document)] + [eot]
    T = max(map(len, documents)) + 1
    y = call(my_documents, torch.tensor(tokens), eot, hint="Print where the eots stand.")
    idx, targets = _pair(y, "my_documents")
    assert len(idx) == len(targets) and len(idx) != len(documents) - 1, (
        f"There are {len(idx)} rows for {len(documents)} documents: the last one is missing. With "
        "which eot does it end?"
    )
    assert idx.shape == targets.shape == (len(documents), T), (
        f"idx is {tuple(idx.shape)} and targets {tuple(targets.shape)}, but {len(documents)} rows "
        f"of {T} were due: the longest document and its eot. Count what a row reads."
    )
    assert not torch.equal(idx, targets.where(targets != -1, idx)), (
        "The targets are what is read in the same place: from them a model learns to copy. Which "
        "slice of the stream begins one token later?"
    )
    assert (idx >= 0).all(), (
        "There is a negative id in idx, which no embedding can look up: −1 belongs into targets. "
        "Fill idx up with an id, such as eot."
    )
    assert (idx[:, 0] == eot).all(), (
        "A row does not begin with eot: then the first word of the document is never predicted, "
        "and the loss is not that of the whole document."
    )
    for row, document in enumerate(documents):
        n = len(document)
        said, rest = targets[row, : n + 1].tolist(), targets[row, n + 1 :].tolist()
        assert all(token == -1 for token in rest), (
            "After the end of a short document there are targets left: the model would be praised "
            "for predicting the padding. What says that there is nothing to predict?"
        )
        assert said[-1] == eot, (
            "The end of a document is not among the targets: that the story is over must be "
            "predicted like any word. Where does your slice of targets end?"
        )
        assert idx[row, : n + 1].tolist() == [eot, *document] and said == [*document, eot], (
            f"Row {row} should read eot and its document, and say the document and eot: got "
            f"{idx[row].tolist()} and {targets[row].tolist()}."
        )


def _documents(tokens, eot, pad=-1, end=1, read_pad=None, shift=1, drop=0, skip=0):
    bounds = (tokens == eot).nonzero().flatten().tolist()
    spans = list(pairwise(bounds))[: len(bounds) - 1 - drop]
    T = max(b - a for a, b in spans)
    idx = torch.full((len(spans), T), eot if read_pad is None else read_pad)
    targets = torch.full_like(idx, pad)
    for row, (a, b) in enumerate(spans):
        n = b - a - skip
        idx[row, :n] = tokens[a + skip : b]
        targets[row, : n - 1 + end] = tokens[a + skip + shift : b + shift - 1 + end]
    return idx, targets


def _documents_without_end(tokens, eot):
    return _documents(tokens, eot, end=0)


def _documents_padding_counts(tokens, eot):
    return _documents(tokens, eot, pad=eot)


def _documents_reads_minus_one(tokens, eot):
    return _documents(tokens, eot, read_pad=-1)


def _documents_not_shifted(tokens, eot):
    return _documents(tokens, eot, shift=0)


def _documents_drops_the_last(tokens, eot):
    return _documents(tokens, eot, drop=1)


def _documents_without_eot(tokens, eot):
    return _documents(tokens, eot, skip=1)


# 3 A training step ----------------------------------------------------------------------


class Table(nn.Module):
    """A bigram model: the logits after token i are row i of a table."""

    def __init__(self, V, g):
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V, generator=g, dtype=torch.float64))

    def forward(self, idx):
        return self.table[idx]

    def loss(self, idx, targets):
        return F.cross_entropy(self(idx).flatten(0, 1), targets.flatten(), ignore_index=-1)


def _micro_batches(g, V, counts):
    """Batches with so many targets each; the rest of their targets is −1."""
    batches = []
    for count in counts:
        idx, targets = torch.randint(V, (2, 2, 6), generator=g)
        targets.view(-1)[torch.randperm(12, generator=g)[count:]] = -1
        batches.append((idx, targets))
    return batches


def _mean_gradient(model, micro):
    """The gradient of the mean over all targets, and that mean, in one pass."""
    idx, targets = (torch.cat(parts) for parts in zip(*micro))
    loss = model.loss(idx, targets)
    return torch.autograd.grad(loss, model.table)[0], loss.item()


def check_my_training_step(my_training_step, seed=0):
    """One update from several batches, as if they were one; clipped when too long, else not."""
    g = torch.Generator().manual_seed(seed)
    model = Table(7, g)
    micro = _micro_batches(g, 7, (2, 11, 5))
    gradient, mean = _mean_gradient(model, micro)
    norm = gradient.norm().item()
    for clip in (3 * norm, norm / 3):
        y, step = _step(my_training_step, model, micro, clip)
        _name_the_step(step, model, micro, gradient, clip)
        assert type(y) is float, (
            f"It returned a {type(y).__name__}, not a float: a tensor that still has its graph "
            "keeps all activations alive. Is .item() or the return missing?"
        )
        means = [model.loss(*batch).item() for batch in micro]
        assert not math.isclose(y, means[-1], rel_tol=1e-6), (
            "The weights move rightly, but the loss that is returned is the last batch's alone. "
            "Add up what each batch contributes."
        )
        assert math.isclose(y, mean, rel_tol=1e-6), (
            f"The weights move rightly, but the loss is {y:.4f} where the mean over all targets "
            f"is {mean:.4f}. Weigh each batch's loss like its gradient."
        )


def _step(my_training_step, model, micro, clip):
    """What the answer returns, and how far it moves the weights, over the learning rate."""
    mine = copy.deepcopy(model)
    mine.table.grad = torch.ones_like(mine.table)  # left over from the step before
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.5)
    y = call(my_training_step, mine, optimizer, [(a.clone(), b.clone()) for a, b in micro], clip)
    return y, (model.table - mine.table).detach() / 0.5


def _name_the_step(step, model, micro, gradient, clip):
    """Compare an update with what frequent mistakes would give; name the one that fits."""
    each = [torch.autograd.grad(model.loss(*batch), model.table)[0] for batch in micro]
    norm = gradient.norm()

    def cut(x):
        return x * min(1.0, clip / x.norm().item())

    def same(x):
        return torch.allclose(step, x, rtol=1e-5, atol=1e-9)

    assert not same(torch.zeros_like(step)), (
        "The weights have not moved: is optimizer.step() missing, or the gradient cleared before?"
    )
    if same(cut(gradient)):
        return
    assert not same(cut(sum(each))), (
        f"The gradients of {len(each)} batches are added up and not divided: the step is that of a "
        "sum. Scale each loss before its backward()."
    )
    assert not same(cut(sum(each) / len(each))), (
        "Every batch weighs the same, though they have unequal numbers of targets: that is a mean "
        "of means. Weigh each by its share of all targets that are not −1."
    )
    stale = torch.ones_like(gradient)
    assert not same(cut(gradient + stale)), (
        "The gradient of the step before is still in p.grad and was added to this one: where do "
        "you call zero_grad?"
    )
    counts = [(targets != -1).sum() for _, targets in micro]
    last = each[-1] * counts[-1] / sum(counts)
    assert not same(cut(last)), (
        "Only the last batch has moved the weights: the others' gradients were cleared. Is "
        "zero_grad inside the loop?"
    )
    assert norm > clip or not same(gradient * clip / norm), (
        "A gradient shorter than clip was stretched to that length: clipping only ever shortens. "
        "What should the factor be when the norm is small?"
    )
    assert norm < clip or not same(gradient), (
        "A gradient longer than clip went through as it was: was it clipped after the step, or "
        "not at all?"
    )
    assert norm < clip or not same(gradient.clamp(-clip, clip)), (
        "Each entry was cut by itself, which turns the gradient into another direction. Clip by "
        "the norm of the whole: nn.utils.clip_grad_norm_."
    )
    raise AssertionError(
        f"The update is {step.norm():.4f} long, and {cut(gradient).norm():.4f} was due, that of "
        "one batch of all rows. Look at the order: clear, all backward passes, clip, step."
    )


def _training_step(model, optimizer, micro, clip, share=None, zero="before", clipper=None, order=0):
    total = sum((targets != -1).sum() for _, targets in micro)
    share = share or (lambda targets: (targets != -1).sum() / total)
    mean = 0.0
    if zero == "before":
        optimizer.zero_grad()
    for idx, targets in micro:
        if zero == "inside":
            optimizer.zero_grad()
        loss = model.loss(idx, targets) * share(targets)
        loss.backward()
        mean += loss.item()
    clipper = clipper or nn.utils.clip_grad_norm_
    if order:
        optimizer.step()
    clipper(model.parameters(), clip)
    if not order:
        optimizer.step()
    return mean


def _step_sums(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip, share=lambda targets: 1.0)


def _step_mean_of_means(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip, share=lambda targets: 1 / len(micro))


def _step_never_clears(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip, zero="never")


def _step_clears_inside(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip, zero="inside")


def _step_always_rescales(model, optimizer, micro, clip):
    def rescale(params, clip):
        (p,) = params
        p.grad *= clip / p.grad.norm()

    return _training_step(model, optimizer, micro, clip, clipper=rescale)


def _step_clips_entries(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip / 4, clipper=_clip_entries)


def _clip_entries(params, clip):
    nn.utils.clip_grad_value_(params, 4 * clip)


def _step_clips_afterwards(model, optimizer, micro, clip):
    return _training_step(model, optimizer, micro, clip, order=1)


def _step_returns_the_last(model, optimizer, micro, clip):
    _training_step(model, optimizer, micro, clip)
    before = copy.deepcopy(model)
    before.table.data += 0.5 * model.table.grad  # undoes the step
    return before.loss(*micro[-1]).item()


def _step_returns_a_tensor(model, optimizer, micro, clip):
    return torch.tensor(_training_step(model, optimizer, micro, clip))


# 4 Saving -------------------------------------------------------------------------------


class Crash(Exception):
    """What happens in the middle of a save."""


def check_my_save(my_save, seed=0):
    """At any instant the name stands for the old file or for the new one, whole."""
    g = torch.Generator().manual_seed(seed)
    old, new = (bytes(torch.randint(256, (n,), generator=g).tolist()) for n in (3000, 5000))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.ckpt"
        path.write_bytes(old)
        seen = {"neighbour": False}
        _watched_save(my_save, path, new, old, seen)
        assert path.read_bytes() == new, (
            "After the save the file does not hold all the pieces, in order: is each one written?"
        )
        assert [p.name for p in Path(folder).iterdir()] == ["run.ckpt"], (
            "After a save that went well there is another file in the folder: rename the "
            "neighbour, do not copy it."
        )
        _crash(my_save, path, old, new)


def _pieces(content, seen=None, path=None, old=None, crash=False):
    """The content in ten pieces; in between, a look at what the name stands for."""
    size = len(content) // 10
    for at in range(0, len(content), size):
        if crash and at >= 5 * size:
            raise Crash("the disk is full")
        if seen is not None:
            assert path.exists(), (
                "While the new file is written there is no file of that name: a kill now would "
                "leave nothing at all. Do not remove the old one; a rename replaces it."
            )
            assert path.read_bytes() == old, (
                "While the new file is written, its name stands for something half-written: a kill "
                "now would leave that. Write under another name, and rename at the end."
            )
            seen["neighbour"] |= len(list(path.parent.iterdir())) > 1
        yield content[at : at + size]


def _watched_save(my_save, path, new, old, seen):
    """Save, and watch the operating system's calls: what is flushed and renamed, and when."""
    events, real = [], (os.fsync, os.replace, os.rename)

    def fsync(file):
        events.append("fsync")
        return real[0](file)

    def renaming(rename):
        def watched(source, target, **options):
            events.append(("rename", Path(source).read_bytes(), Path(source).parent == path.parent))
            return rename(source, target, **options)

        return watched

    os.fsync, os.replace, os.rename = fsync, renaming(real[1]), renaming(real[2])
    try:
        my_save(path, _pieces(new, seen, path, old))
    except (NotImplementedError, AssertionError):
        raise
    except Exception as e:
        raise AssertionError(
            f"A save that should go well stopped with {type(e).__name__}: {e}"
        ) from e
    finally:
        os.fsync, os.replace, os.rename = real
    renames = [event for event in events if event != "fsync"]
    assert renames, (
        "Nothing was renamed: then the file was written under its own name, and a kill in the "
        "middle leaves half of it. Write to a neighbour, then os.replace."
    )
    _, content, beside = renames[-1]
    assert beside, (
        "The file was first written in another folder. A rename across disks is a copy, which a "
        "kill can cut in two: write beside the target, in path.parent."
    )
    assert content == new, (
        f"When it was renamed, {len(content):,} of {len(new):,} bytes had reached the file: the "
        "rest was still in Python's buffer. Rename after the file is closed, or flushed."
    )
    assert "fsync" in events[: events.index(renames[-1])], (
        "The bytes were handed to the operating system and not yet to the disk when the name was "
        "changed: after a power cut the new name may stand for an empty file. Look at os.fsync."
    )


def _crash(my_save, path, old, new):
    """Let a save fail in the middle; the file must be as it was, and a later save must work."""
    path.write_bytes(old)
    try:
        my_save(path, _pieces(new, crash=True))
    except Crash:
        pass
    else:
        raise AssertionError(
            "A save failed in the middle and nobody was told: the error was swallowed. Let it "
            "pass; whoever saves must know."
        )
    assert path.exists() and path.read_bytes() == old, (
        "A save failed in the middle, and the old file is gone or overwritten: is the rename in a "
        "finally, where it happens in any case?"
    )
    my_save(path, _pieces(new))
    assert path.read_bytes() == new, (
        "After a failed save the next one did not go well: does it stumble over what was left?"
    )


def _save_in_place(path, chunks):
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _save_gathers_then_in_place(path, chunks):
    content = b"".join(chunks)
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def _save_removes_first(path, chunks):
    Path(path).unlink(missing_ok=True)
    _save_beside(path, chunks)


def _save_beside(path, chunks, sync=True):
    part = Path(f"{path}.part")
    with open(part, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(part, path)


def _save_without_fsync(path, chunks):
    _save_beside(path, chunks, sync=False)


def _save_elsewhere(path, chunks):
    with tempfile.NamedTemporaryFile(delete=False) as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    shutil.move(file.name, path)


def _save_renames_too_early(path, chunks):
    part = Path(f"{path}.part")
    with open(part, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        os.fsync(file.fileno())
        os.replace(part, path)


def _save_renames_in_any_case(path, chunks):
    part = Path(f"{path}.part")
    try:
        with open(part, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.replace(part, path)


def _save_swallows(path, chunks):
    try:
        _save_beside(path, chunks)
    except Exception:
        pass


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_get_batch": {
        "targets not shifted": (_batch_not_shifted, "learns from them to copy"),
        "leaves the last window out": (_batch_without_the_last, "the last token is never a target"),
        "reaches past the end": (_batch_past_the_end, "Does a window"),
        "wraps around": (_batch_wraps, "goes on at its beginning"),
        "one start for all rows": (_batch_one_start, "one start drawn for all rows"),
        "windows at multiples only": (_batch_side_by_side, "multiples of something"),
        "float ids": (_batch_of_floats, "there is no row between two"),
        "ids of another dtype": (_batch_of_int32, "must be torch.int64"),
    },
    "my_documents": {
        "the end is not predicted": (_documents_without_end, "The end of a document is not"),
        "padding is predicted": (_documents_padding_counts, "predicting the padding"),
        "reads −1": (_documents_reads_minus_one, "which no embedding can look up"),
        "targets not shifted": (_documents_not_shifted, "what is read in the same place"),
        "drops the last document": (_documents_drops_the_last, "the last one is missing"),
        "does not begin with eot": (_documents_without_eot, "A row does not begin with eot"),
    },
    "my_training_step": {
        "sums without dividing": (_step_sums, "not divided"),
        "mean of means": (_step_mean_of_means, "mean of means"),
        "never clears": (_step_never_clears, "the step before is still in"),
        "clears inside the loop": (_step_clears_inside, "Only the last batch has moved"),
        "always rescales": (_step_always_rescales, "stretched to that length"),
        "clips each entry": (_step_clips_entries, "Each entry was cut by itself"),
        "clips after the step": (_step_clips_afterwards, "went through as it was"),
        "returns the last loss": (_step_returns_the_last, "the last batch's alone"),
        "returns a tensor": (_step_returns_a_tensor, "still has its graph"),
    },
    "my_save": {
        "writes in place": (_save_in_place, "stands for something half-written"),
        "gathers, then writes in place": (_save_gathers_then_in_place, "Nothing was renamed"),
        "removes the old file first": (_save_removes_first, "there is no file of that name"),
        "no fsync": (_save_without_fsync, "not yet to the disk"),
        "writes elsewhere": (_save_elsewhere, "A rename across disks"),
        "renames before it is flushed": (_save_renames_too_early, "still in Python's buffer"),
        "renames in any case": (_save_renames_in_any_case, "is the rename in a finally"),
        "swallows the error": (_save_swallows, "the error was swallowed"),
    },
}
