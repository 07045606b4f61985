"""`python -m minigpt2 "text"`: what comes next, the text continued, and pictures of what happens inside."""

import argparse
import codecs
import sys

from .terminal import Parser, decoded, filled, guarded, printable, table, warn

DESCRIPTION = "Shows what GPT-2 expects next, continues a text, and draws what happens inside."
EXAMPLES = """examples:
  python -m minigpt2 "Michelle Jones was a top-notch student. Michelle"
  python -m minigpt2 "The dog" --generate 30
  python -m minigpt2 "The dog" --generate 30 --temperature 0.8 --top-p 0.95 --seed 1
  python -m minigpt2 "The dog" --tokens
  python -m minigpt2 "When Mary and John went to the store, John gave a drink to" \\
      --lens lens.png --attribution " Mary" " John" attribution.png --pattern 4 2 pattern.png

Without --model this is gpt2 or, where that can be neither found nor fetched, the small bundled model.
Without --generate, --tokens or a picture, the table of next tokens is printed.
"""


def parser():
    p = Parser(
        prog="python -m minigpt2", description=DESCRIPTION, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.add_argument("text", type=decoded, help="the text to read; a leading space is part of the word that follows")
    p.add_argument("--model", metavar="NAME_OR_FOLDER", help='a model on the Hugging Face Hub, a folder, or "bundled"')
    p.add_argument("--top", type=int, metavar="N", help="print the table of the N likeliest next tokens (20)")
    p.add_argument("--tokens", action="store_true", help="print the tokens that the text is cut into")
    g = p.add_argument_group("continuing the text")
    g.add_argument("--generate", type=int, metavar="N", help="continue the text by N tokens, printed as they come")
    g.add_argument("--past-end", action="store_true", help="go on after <|endoftext|>, at which a text ends otherwise")
    g.add_argument(
        "--temperature", type=float, metavar="T", help="0 picks the likeliest token (default); higher is more random"
    )
    g.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest (implies temperature 1)")
    g.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest that hold probability P (implies temperature 1)"
    )
    g.add_argument("--seed", type=int, metavar="N", help="random seed, for a repeatable text (implies temperature 1)")
    g = p.add_argument_group("pictures (.png, .pdf, .svg)")
    g.add_argument("--lens", type=filled, metavar="OUT", help="logit lens: what each layer would predict")
    add, three = g.add_argument, {"type": filled, "nargs": 3}
    add(
        "--attribution",
        **three,
        metavar=("PLUS", "MINUS", "OUT"),
        help="how much each head and MLP adds to logit(PLUS) - logit(MINUS)",
    )
    add("--pattern", **three, metavar=("LAYER", "HEAD", "OUT"), help="where one attention head looks")
    return p


def parse(arguments):
    p = parser()
    args = p.parse_args(arguments)
    for option in ("--past-end", "--temperature", "--top-k", "--top-p", "--seed"):
        value = getattr(args, option[2:].replace("-", "_"))
        if value is not None and value is not False and args.generate is None:
            p.error(f"{option} is about how a text is continued: give --generate N as well")
    for i, what in enumerate(("layer", "head")) if args.pattern else ():
        number = args.pattern[i]
        if not number.isdecimal():
            p.error(f"--pattern takes the numbers of a layer and of a head, and {number!r} is no {what}'s")
        args.pattern[i] = int(number)
    return args


def main(arguments=None):
    args = parse(arguments)
    pictures = [paths[-1] for paths in (args.lens and [args.lens], args.attribution, args.pattern) if paths]
    if pictures:
        from .pictures.style import check_picture, write

        for path in pictures:
            check_picture(path)

    from .fallback import load_or_bundled

    model = load_or_bundled(args.model)
    tokens = model.encode(args.text)
    if not tokens:
        raise ValueError("the text is empty: give at least one character")
    if args.text.endswith(" ") and len(args.text) > 1:
        warn("the text ends in a space, which is part of the next token: without it, the next words are likelier")
    wants_next = args.top is not None or not (args.tokens or args.generate is not None or pictures)
    if wants_next or pictures:
        run = model.run(tokens)
    figures = list(draw(run, args)) if pictures else []  # before anything is printed or written: each may be refused
    if args.tokens:
        print_tokens(model, tokens)
    if args.generate is not None:
        print_continued(model, args.text, tokens, args)
    if wants_next:
        print_next(model, run.resid_post[-1, -1], 20 if args.top is None else args.top)
    for figure, path, line in figures:
        write(figure, path)
        print(printable(line))


# Text


def print_next(model, resid, top):
    """Print the likeliest next tokens. resid is the last position's stream after the last block, [n_embd]."""
    if not 1 <= top <= model.config.n_vocab:
        raise ValueError(f"--top must be from 1 to the {model.config.n_vocab} tokens of {model.name}, got {top}")
    from .lens import likeliest
    from .model import softmax

    logits = model.resume(resid[None], model.config.n_layer)  # [1, n_vocab]
    best, p = likeliest(logits, top)[0], softmax(logits)[0]
    rows = [(i, token, model.labels([token])[0], f"{p[token]:.4f}") for i, token in enumerate(best.tolist(), start=1)]
    print("\n".join(table(("Position", "Token index", "Token", "Probability"), rows)))


def print_tokens(model, tokens):
    rows = [(str(i), str(t), label) for i, (t, label) in enumerate(zip(tokens, model.tokenizer.visible_tokens(tokens)))]
    print("\n".join(table(("Position", "Token index", "Token"), rows)))


def print_continued(model, text, tokens, args):
    """Print the text and, as they come, the new tokens: whole characters only, though a token may end inside one."""
    from .generate import generate

    greedy = args.top_k is args.top_p is args.seed is None
    temperature = args.temperature if args.temperature is not None else float(not greedy)
    end = None if args.past_end else model.tokenizer.end_of_text
    new = generate(model, tokens, args.generate, temperature, args.top_k, args.top_p, args.seed, stop=end)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    show(text)
    n = 0
    for token in new:
        show(decoder.decode(spelled(model, token)))
        n += 1
    show(decoder.decode(b"", final=True) + "\n")
    if n < args.generate:
        warn(f"the text ended (<|endoftext|>) after {n} of {args.generate} tokens: --past-end goes on")


def spelled(model, token):
    """The bytes of a token; of an id beyond the vocabulary, as padded embeddings have them, its number: <1524>."""
    return model.tokenizer.token_bytes(token) if token < model.tokenizer.n_vocab else b"<%d>" % token


def show(text):
    if sys.stdout.isatty():  # a control character in the text must not reach the terminal as a command
        text = printable(text, keep="\n\t")
    sys.stdout.write(text)
    sys.stdout.flush()


# Pictures


def draw(run, args):
    """Draw what was asked for: yields each figure, the path to write it to, and a line that says so."""
    from .lens import direct_logit_attribution, logit_lens
    from .pictures import runs

    if args.lens:
        yield runs.lens_figure(logit_lens(run)), args.lens, args.lens
    if args.attribution:
        plus, minus, path = args.attribution
        attribution = direct_logit_attribution(run, plus, minus)
        yield runs.attribution_figure(attribution), path, f"{path}: {attribution}"
    if args.pattern:
        layer, head, path = args.pattern
        yield runs.pattern_figure(run, layer, head), path, path


def command():
    """main, whose errors are a sentence, as a command that is installed calls it."""
    return guarded(main)


if __name__ == "__main__":
    sys.exit(command())
