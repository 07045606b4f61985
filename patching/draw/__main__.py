"""Draw saved results again, on one scale: python -m patching.draw figures/surname_resid_post_gpt2.npz --out map.pdf"""

import argparse
import sys

from minigpt2.terminal import filled, guarded, printable

from .. import save


def main():
    parser = argparse.ArgumentParser(
        prog="python -m patching.draw", description="Draw saved results again, on one scale."
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="what python -m patching.demo --save has written")
    parser.add_argument(
        "--out", type=filled, metavar="FILE", help="a .png, .pdf or .svg (default: the first file's name with .png)"
    )
    args = parser.parse_args()

    from .figure import check_picture, compared, figure, write  # not before guarded() has set MPLBACKEND aside

    out = args.out or str(save.paths(args.files[0])[0].with_suffix(".png"))
    check_picture(out)
    results = [save.load(file) for file in args.files]
    write(compared(*results) if [r.method for r in results] == ["patching", "attribution"] else figure(results), out)
    print(printable(out))


if __name__ == "__main__":
    sys.exit(guarded(main))
