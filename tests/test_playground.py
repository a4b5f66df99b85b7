"""The model in the page: in a real browser it gives PyTorch's logits, and the page writes."""

import base64
import json

import pytest
import torch
from test_pages import CHROMIUM, HTML, ROOT, browser, site  # noqa: F401 (fixtures)

from gpt2lib import pretrained
from gpt2lib.generate import filter_logits
from gpt2lib.storyworld import World

RUN = ROOT / "runs" / "storyteller"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
in_pages = pytest.mark.skipif(
    HTML is None or not (HTML / "playground.html").exists(), reason="the book is not built"
)


def texts():
    return World().stories(20, seed=7)


@pytest.fixture(scope="module")
def page(browser):  # noqa: F811
    """A page with gpt2.js, the model and its tokenizer, without a worker."""
    page = browser.new_page()
    page.set_content("<p>")
    page.add_script_tag(path=str(ROOT / "playground" / "gpt2.js"))
    config, tokenizer = (
        json.loads((RUN / n).read_text()) for n in ("config.json", "tokenizer.json")
    )
    weights = base64.b64encode((RUN / "model.safetensors").read_bytes()).decode()
    page.evaluate(
        """([config, tokenizer, weights]) => {
            const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
            window.model = new gpt2.GPT(config, gpt2.readSafetensors(bytes.buffer));
            window.tokenizer = new gpt2.Tokenizer(tokenizer);
        }""",
        [config, tokenizer, weights],
    )
    return page


def test_the_logits_are_those_of_pytorch(page):
    model, tokenizer = pretrained.load(RUN).eval(), pretrained.load_tokenizer(RUN)
    for text in texts():
        ids = [tokenizer.eot, *tokenizer.encode(text)][:256]
        theirs = page.evaluate("ids => model.forward(ids).map((row) => [...row])", ids)
        with torch.no_grad():
            ours = model(torch.tensor([ids]))[0].float()
        assert (torch.tensor(theirs) - ours).abs().max() < 1e-3


def test_the_tokenizer_is_ours(page):
    tokenizer = pretrained.load_tokenizer(RUN)
    odd = ["  two  blanks\n\n", "It's naïve: 東京 3.14!", "", "<|endoftext|> is text", "a" * 50]
    for text in [*texts(), *odd]:
        ids = tokenizer.encode(text)
        assert page.evaluate("text => tokenizer.encode(text)", text) == ids
        assert page.evaluate("ids => tokenizer.decode(ids)", ids) == text


@pytest.mark.parametrize(
    "dials",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.3, "top_k": 5},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 50, "top_p": 0.5},
    ],
)
def test_the_dials_cut_what_the_library_cuts(page, dials):
    torch.manual_seed(1337)
    logits = 3 * torch.randn(4, 849)
    for row in logits:
        said = {
            "topK" if k == "top_k" else "topP" if k == "top_p" else k: v for k, v in dials.items()
        }
        theirs = page.evaluate(
            "([z, dials]) => [...gpt2.probabilities(z, dials)]", [row.tolist(), said]
        )
        ours = filter_logits(
            row[None], dials["temperature"], dials.get("top_k"), dials.get("top_p")
        ).softmax(-1)[0]
        assert torch.allclose(torch.tensor(theirs, dtype=torch.float32), ours, atol=1e-6)


def test_temperature_0_is_the_likeliest_alone(page):
    p = page.evaluate("gpt2.probabilities([0, 3, 1], {temperature: 0})")
    assert list(p.values() if isinstance(p, dict) else p) == [0, 1, 0]


def test_draws_follow_the_probabilities(page):
    counts = page.evaluate(
        """() => {
            const random = gpt2.randomNumbers(1337), counts = [0, 0, 0, 0];
            for (let i = 0; i < 20000; i++) counts[gpt2.draw([0.1, 0, 0.6, 0.3], random())] += 1;
            return counts;
        }"""
    )
    assert counts[1] == 0
    chi2 = sum((n - e) ** 2 / e for n, e in zip(counts, (2000, 1, 12000, 6000)) if e > 1)
    assert chi2 < 13.8  # one in a thousand, with two degrees of freedom


def test_a_head_that_is_off_brings_nothing(page):
    model, tokenizer = pretrained.load(RUN).eval(), pretrained.load_tokenizer(RUN)
    ids = [tokenizer.eot, *tokenizer.encode(texts()[0])][:60]
    D = model.config.n_embd // model.config.n_head
    with torch.no_grad():
        model.h[1].attn.c_proj.weight[:, :D] = 0  # head 0 of block 1
        ours = model(torch.tensor([ids]))[0].float()
    theirs = page.evaluate(
        "ids => model.forward(ids, {off: new Set(['1.0'])}).map((row) => [...row])", ids
    )
    assert (torch.tensor(theirs) - ours).abs().max() < 1e-3


def test_the_window_has_an_end(page):
    with pytest.raises(Exception, match="window of 256 tokens is full"):
        page.evaluate("model.forward(Array(257).fill(1))")


@in_pages
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_the_playground_writes(browser, site, scheme):  # noqa: F811
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    address = site if scheme == "http" else HTML.as_uri() + "/"
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address + "playground.html")
    assert not any("storyteller.js" in url for url in asked), "loaded before it is asked for"
    page.click("[name=write]")
    page.get_by_text("tokens, ").wait_for()
    first = page.locator(".out").inner_text()
    assert len(first) > 50 and page.locator(".bars li").count() == 8
    page.click("[name=write]")
    page.get_by_text("tokens, ").wait_for()
    assert page.locator(".out").inner_text() == first  # the same seed, the same text
    page.click("[name=again]")
    page.wait_for_function(
        "first => document.querySelector('.out').textContent.length > 50"
        " && !document.querySelector('.state').textContent.includes('Writing')"
        " && document.querySelector('.out').textContent !== first",
        arg=first,
    )
    assert page.input_value("[name=seed]") == "2" and complaints == []


@in_pages
def test_a_long_text_is_stopped_and_outgrows_the_window(browser, site):  # noqa: F811
    page = browser.new_page()
    page.goto(site + "playground.html")
    page.fill("[name=text]", "Once there was a miller. " * 60)
    page.fill("[name=count]", "20")
    page.click("[name=write]")
    page.get_by_text("out of the window").wait_for()
    page.fill("[name=text]", "Once")
    page.fill("[name=count]", "2000")
    page.click("[name=write]")
    page.wait_for_function("document.querySelector('.out').textContent.length > 20")
    page.click("[name=stop]")
    page.get_by_text("tokens, ").wait_for()
