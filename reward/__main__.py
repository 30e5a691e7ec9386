"""``vespo reward check | audit | fuzz | bench | serve``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vespo_openrlhf.reward.api import label_problem, verify
from vespo_openrlhf.reward.comparing.expression import TooComplexError
from vespo_openrlhf.reward.comparing.limits import MAX_CHARS
from vespo_openrlhf.reward.comparing.structure import parse
from vespo_openrlhf.reward.reading.extract import extract
from vespo_openrlhf.reward.reading.normalize import normalize
from vespo_openrlhf.reward.verdict import REASONS


def _describe(text: str) -> str:
    if len(text) > MAX_CHARS:
        return f"{len(text)} characters, beyond what is read"
    try:
        normal = normalize(text)
        return f"{normal!r} ({parse(normal).kind})"
    except (TooComplexError, RecursionError):
        return "nested beyond what is read"


def _check(args: argparse.Namespace) -> int:
    response = sys.stdin.read() if args.response == "-" else args.response
    verdict = verify(
        response, args.gold, timeout_s=args.timeout, prompt=args.prompt, require_box=not args.no_box
    )
    outcome = "right" if verdict.correct else "not right"
    print(f"{outcome}: {verdict.reason}, {REASONS[verdict.reason]}")
    print(f"  gold       {args.gold!r} read as {_describe(args.gold)}")
    problem = label_problem(args.gold)
    if problem:
        print(f"             {problem}")
    for answer in extract(response, prompt=args.prompt, require_box=not args.no_box).answers:
        print(f"  extracted  {answer!r} read as {_describe(answer)}")
    return 0 if verdict.correct else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vespo reward", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="judge one response and say why")
    check.add_argument("--gold", required=True)
    check.add_argument("--response", required=True, help="the response, or - to read it from stdin")
    check.add_argument("--prompt", default="", help="boxes copied from it are no answers")
    check.add_argument("--timeout", type=float, default=5.0, help="seconds a comparison may run")
    check.add_argument("--no-box", action="store_true", help='also take what follows "answer:"')
    audit = commands.add_parser("audit", help="find what is wrong with the golds of a dataset")
    audit.add_argument("path", help=".parquet, .jsonl, .json or .csv")
    audit.add_argument("--label-key")
    audit.add_argument("--prompt-key")
    audit.add_argument("--show", type=int, default=10, help="rows to print of each problem")
    fuzz = commands.add_parser("fuzz", help="judge golds made wrong, and golds rewritten")
    fuzz.add_argument("path", help=".parquet, .jsonl, .json or .csv")
    fuzz.add_argument("--label-key")
    fuzz.add_argument("--seed", type=int, default=0)
    fuzz.add_argument("--limit", type=int, help="golds to take")
    fuzz.add_argument("--json", action="store_true", help="print the report as JSON")
    bench = commands.add_parser("bench", help="throughput, latency under attack, loop stalls")
    bench.add_argument("--golds", help="a .jsonl file with the column 'answer'")
    bench.add_argument("--timeout", type=float, default=2.0)
    serve = commands.add_parser("serve", help="OpenRLHF's remote reward contract over HTTP")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; one of others needs a token"
    )
    serve.add_argument("--port", type=int, default=5000)
    serve.add_argument(
        "--token",
        default=os.environ.get("REWARD_TOKEN", ""),
        help="a secret that callers must send, as in --reward.remote_url "
        "http://:TOKEN@HOST:PORT/get_reward; REWARD_TOKEN in the environment says the same, and "
        "other users of the machine cannot see it there",
    )
    serve.add_argument("--max-body", type=int, default=64 * 2**20, help="bytes of a request")
    serve.add_argument("--max-requests", type=int, default=256, help="worked on at a time")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 on a user's mistake."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "check":
            return _check(args)
        if args.command == "audit":
            from vespo_openrlhf.reward.tools.audit import main as audit_main

            return audit_main(args.path, args.label_key, args.prompt_key, args.show)
        if args.command == "fuzz":
            from vespo_openrlhf.reward.tools.fuzz import main as fuzz_main

            return fuzz_main(args.path, args.label_key, args.seed, args.limit, args.json)
        if args.command == "bench":
            from vespo_openrlhf.reward.tools.bench import main as bench_main

            bench_main(args.golds, args.timeout)
            return 0
        from vespo_openrlhf.reward.tools.http_server import main as serve_main

        serve_main(args.host, args.port, args.max_body, args.max_requests, args.token)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
