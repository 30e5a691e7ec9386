# ruff: noqa: E501 - a row of a table is read whole
"""The policy for expressions, lists, sets, tuples, intervals, equations, matrices, words.

Rows are (answer in the box, gold, whether it is right).
"""

import pytest

from reward import verify

EXPRESSIONS = [
    ("p - q", "p-q", True), ("q - p", "p-q", False), ("-q+p", "p - q", True), ("xy", "yx", True),
    (r"x^2+2x+1", "(x+1)^2", True), ("(x+1)**2", "x^2+2x+1", True), ("x^2+2x", "(x+1)^2", False),
    (r"11\sqrt2", r"11\sqrt{2}", True), ("11*sqrt(2)", r"11\sqrt{2}", True), ("11√2", r"11\sqrt2", True),
    (r"\sqrt{242}", r"11\sqrt{2}", True), (r"\sqrt{243}", r"11\sqrt{2}", False), ("2pi", r"2\pi", True),
    ("2π", r"2\pi", True), (r"\pi\cdot 2", r"2\pi", True), (r"3\pi", r"2\pi", False),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True), ("6-5i", "6 - 5i", True),
    ("-5i+6", "6 - 5i", True), ("6+5i", "6 - 5i", False), (r"6-5\mathrm{i}", "6 - 5i", True),
    (r"1-\frac{1}{e}", r"1-1/\mathrm{e}", True), (r"1-1/\mathrm{e}", r"1-\frac{1}{e}", True),
    (r"1-e^{-1}", r"1-\frac{1}{e}", True), (r"\frac{\cos x}{\sin x}", r"\cot x", True),
    (r"\frac{1}{\tan x}", r"\cot x", True), (r"\tan x", r"\cot x", False), ("|x|", "x", False),
    (r"\sqrt{x^2}", "|x|", True), (r"\sqrt{x^2}", "x", False), ("2k+2", "2(k+1)", True),
    ("3R^2", "3r^2", True), ("0", r"\pi(R^2-r^2)", False), (r"\pi R^2 - \pi r^2", r"\pi(R^2-r^2)", True),
    ("e^{x}e^{y}", "e^{x+y}", True), (r"\ln 4", r"2 \ln 2", True), (r"\log 4", r"\ln 3", False),
    (r"\sin^2 x+\cos^2 x", "1", False), ("8n^2+4n+1", "8n^2 + 4n + 1", True), ("x", "y", False),
    (r"\frac{20000}{\pi}", r"20000/\pi", True), (r"\frac{11+9a}{20}", "(9a+11)/20", True),
    ("0.5x", r"\frac{x}{2}", True), (r"\frac12 x", r"x/2", True), (r"x^{1/2}", r"\sqrt{x}", True),
    ("2^{n+1}", r"2 \cdot 2^n", True), ("2^{n}", "2^{n+1}", False), ("n!", "n!", True),
    (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}", True), ("a_1 + a_2", "a_2 + a_1", True),
    (r"\infty", r"\infty", True), (r"-\infty", r"\infty", False), ("∞", r"\infty", True),
    (r"\tan^{-1} 2", r"\arctan 2", True), (r"\sqrt[3]{2}", "2^{1/3}", True), (r"-\frac{\pi}{6}", r"-\pi/6", True),
    (r"\left(x+1\right)\left(x-1\right)", "x^2-1", True), (r"18+2\pi", r"2(9+\pi)", True),
    (r"\frac{\pi}{4}", r"\frac{\pi}{3}", False), (r"(1+x)^{60}", "(x+1)^{60}", True),
]  # fmt: skip

LISTS = [
    ("1,-2", "-2,1", True), ("-2, 1", "1,-2", True), ("1", "1,-2", False), ("1,-2,3", "1,-2", False),
    (r"1 \text{ and } -2", "1,-2", True), (r"1 \text{ or } -2", "1,-2", True), ("1 and -2", "-2,1", True),
    (r"x=1 \text{ or } x=-2", "1,-2", True), ("x = 1, -2", "1,-2", True), ("x=1, x=-2", "-2, 1", True),
    (r"\{1,-2\}", "1,-2", True), ("1,-2", r"\{1,-2\}", True), (r"\{-2, 1\}", r"\{1,-2\}", True),
    (r"\{1, 2\}", r"\{1, 2, 3\}", False), (r"\{1,1,2\}", r"\{1,2\}", True), ("3,5,7", "3, 5, 7", True),
    ("7, 5, 3", "3, 5, 7", True), ("3, 5", "3, 5, 7", False), (r"1 \pm \sqrt{19}", r"1 \pm \sqrt{19}", True),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}", True), (r"1-\sqrt{19},1+\sqrt{19}", r"1\pm\sqrt{19}", True),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True), (r"1+\sqrt{19}", r"1 \pm \sqrt{19}", False),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}", True), (r"\pm 2", "2,-2", True),
    ("2", r"\pm 2", False), (r"\{5\}", "5", True), ("5", r"\{5\}", True), ("1, 2", "2", False),
    ("1 or 2", "2", False), (r"1 \text{ or } 2", "1", False), ("1; 2", "2", False), ("2, 2", "2", True),
    (r"\emptyset", r"\{\}", True), (r"\varnothing", r"\emptyset", True), ("7 8", "7", False),
    ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "7", False), (r"7 \quad 8", "8", False), (r"7 \\ 8", "8", False),
    (r"\frac12, \frac13", "0.5, 1/3", True), (r"\text{A, C}", "A, C", True), ("100,200,300", "100, 200, 300", True),
]  # fmt: skip

TUPLES = [
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True), ("(6,31,-1)", "(6, 31, -1)", True),
    ("(31,6,-1)", "(6,31,-1)", False), ("(1,2)", "(2,1)", False), (r"\{1,2\}", "(1,2)", False),
    ("(1,2)", r"\{1,2\}", False), ("3, 4", "(3,4)", True), ("4, 3", "(3,4)", False), ("(3,4)", "(3, 4, 5)", False),
    (r"\langle 1,2,3 \rangle", "(1,2,3)", True), ("(x,y) = (1,2)", "(1,2)", True), ("x=1, y=2", "(1,2)", True),
    ("x=2, y=1", "(1,2)", False), ("(1+2, 4)", "(3,4)", False), ("(0.5, 2)", r"(\frac{1}{2}, 2)", True),
    ("(1,2),(3,4)", "(3,4),(1,2)", True), ("(1,2),(4,3)", "(3,4),(1,2)", False), (r"\left( \frac{3}{2}, -13 \right)", "(1.5,-13)", True),
    ("(1,-16,-4,43)", "(1, -16, -4, 43)", True), ("(1,2)", "1", False), ("(2,4)", "2,4", True), ("(4,2)", "2,4", False),
]  # fmt: skip

INTERVALS = [
    ("(3,4]", r"\left(3,4\right]", True), ("[3,4]", "(3,4]", False), ("(3,4)", "(3,4]", False),
    (r"3 < x \le 4", "(3,4]", True), (r"3 < x \leq 4", "(3,4]", True), (r"3 \le x \le 4", "(3,4]", False),
    ("(3,4]", r"3 < x \le 4", True), (r"4 \ge x > 3", "(3,4]", True), ("x > 5", r"(5,\infty)", True),
    (r"(5,\infty)", "x>5", True), (r"x \ge 5", r"(5,\infty)", False), (r"x \geqslant 5", r"[5,\infty)", True),
    (r"5 < x", r"(5,\infty)", True), (r"x \in (5,\infty)", r"(5, \infty)", True), (r"x \in [-2,7]", "[-2,7]", True),
    ("[-2,7]", r"x \in [-2,7]", True), (r"-2 \le x \le 7", r"x \in [-2,7]", True), (r"(-2, 7)", r"x \in [-2,7]", False),
    (r"x < 2 \text{ or } x > 3", r"(-\infty,2)\cup(3,\infty)", True), (r"(3,\infty)\cup(-\infty,2)", r"(-\infty, 2) \cup (3, \infty)", True),
    (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3", True), (r"(-\infty,2]\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)", False),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)", True), (r"\mathbb{R} \setminus \{2\}", r"(-\infty,2)\cup(2,\infty)", True),
    (r"(-\infty, \infty)", r"\mathbb{R}", True), (r"\text{all real numbers}", r"(-\infty,\infty)", True),
    (r"\{x \mid x > 5\}", r"(5,\infty)", True), (r"\{x : 3 < x \le 4\}", "(3,4]", True), (r"(-\infty, 0]", r"x \le 0", True),
    (r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]", r"[\pi^2/8, 5\pi^2/4]", True), (r"(-\sqrt{3}, \sqrt{3})", r"-\sqrt3 < x < \sqrt3", True),
    (r"x>2 \text{ and } x<5", "(2,5)", True), ("y > 5", "x > 5", False), (r"2 < y < 3", "(2,3)", True), ("(2,3)", "(2,4)", False),
    (r"(0,9) \cup (9,36)", r"(9,36) \cup (0,9)", True), (r"(0,36)", r"(0,9) \cup (9,36)", False), (r"x ≥ 5", r"[5,\infty)", True),
    ("x >= 5", r"[5,\infty)", True), (r"(5, +\infty)", r"(5,\infty)", True),
]  # fmt: skip

EQUATIONS = [
    ("x=5", "5", True), ("5", "x=5", True), ("x=5", "x=5", True), ("y=5", "x=5", False), ("x=6", "5", False),
    ("x = 5", r"x=5", True), ("5=x", "5", True), ("2x=10", "5", False), ("2x=10", "x=5", False), ("f(x)=2x+3", "2x+3", True),
    ("2x+3", "y = 2x + 3", True), ("y=2x+3", "y = 2x + 3", True), ("y = 3+2x", "y=2x+3", True), ("y=2x-3", "y=2x+3", False),
    ("2x-y+3=0", "y=2x+3", True), ("y-3=2x", "y=2x+3", True), ("-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0", True),
    ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0", True), ("5x - 7y + 11z = 4", "5x - 7y + 11z + 4 = 0", False),
    (r"\text{Area} = 12", "12", True), (r"AB = 12", "12", True), (r"P(A)=\frac12", "0.5", True), ("x = 2+3 = 5", "5", True),
    ("x = 2+4 = 5", "5", False), (r"\angle ABC = 90^\circ", "90", True), (r"x = \sqrt{2} \approx 1.414", r"\sqrt{2}", True),
    (r"\sqrt{2} \approx 1.414", "1.414", True), (r"\sqrt{2} \approx 7", "7", False), (r"5 \approx 7", "7", False),
    ("x^2+y^2=1", "x^2+y^2-1=0", True), ("x^2+y^2=2", "x^2+y^2=1", False), ("y=2x", "y = -2x", False), ("x=y", "y=x", True),
    (r"\text{Answer: } 5", "5", True), (r"\text{The answer is } 5", "5", True), ("n = 12", "12", True), ("x_1=5", "5", True),
    (r"2x + y < 5", "y + 2x < 5", True), (r"2x + y < 5", "2x+y > 5", False), (r"-2x-y > -5", "2x+y<5", True),
]  # fmt: skip

MATRICES = [
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac{2}{3} \end{pmatrix}", True),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{bmatrix}-1&0\\0&-1\end{bmatrix}", True),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", False),
    (r"\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
    (r"\begin{pmatrix} \sqrt{4} \\ x \end{pmatrix}", r"\begin{pmatrix}2\\x\end{pmatrix}", True),
    (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
]  # fmt: skip

WORDS = [
    (r"\text{Evelyn}", "Evelyn", True), ("Evelyn", r"\text{Evelyn}", True), ("evelyn", r"\text{Evelyn}", True),
    (r"\text{Evelyn }", r"\text{Evelyn}", True), (r"\textbf{Evelyn}", "Evelyn", True), ("Navin", "Evelyn", False),
    (r"\text{east}", r"\text{seat}", False), ("teas", r"\text{east}", False), (r"\mathrm{even}", r"\text{even}", True),
    (r"\text{odd}", r"\text{even}", False), ("an ellipse", r"\text{ellipse}", True), (r"\text{no solution}", "No solution", True),
    ("yes", "Yes", True), ("no", "Yes", False), (r"\text{Yes}", "yes", True), (r"\text{not even}", r"\text{even}", False),
    ("Alice and Bob", "Bob and Alice", True), (r"\text{Alice}", r"\text{Alice and Bob}", False), ("parabola", "5", False),
]  # fmt: skip

CHOICES = [
    ("C", r"\text{(C)}", True), ("(C)", r"\text{(C)}", True), (r"\text{C}", r"\text{(C)}", True), (r"\textbf{(C)}", "C", True),
    ("C.", "C", True), ("C)", "C", True), ("c", "(C)", True), ("(B)", r"\text{(C)}", False), (r"\mathrm{(C)}", "C", True),
    (r"\text{Option C}", "C", True), (r"\textbf{(C)}\ 5", "C", True), (r"\textbf{(C)}\ 5", "5", True), (r"\textbf{(C)}\ 5", "6", False),
    (r"\text{(C) } 5", "C", True), ("C: 5", "C", True), ("A, B, C, D", "C", False), ("A or C", "C", False), ("(A) (C)", "C", False),
    ("A. B. C. D.", "A", False), ("ABCD", "C", False), (r"\text{A and C}", "C", False), ("5", "C", False), ("(E)", r"\text{(E)}", True),
]  # fmt: skip

TABLES = {
    "expressions": EXPRESSIONS, "lists": LISTS, "tuples": TUPLES, "intervals": INTERVALS,
    "equations": EQUATIONS, "matrices": MATRICES, "words": WORDS, "choices": CHOICES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        pytest.param(*row, id=f"{name}-{row[0]}-vs-{row[1]}")
        for name, t in TABLES.items()
        for row in t
    ],
)
def test_structures(answer: str, gold: str, right: bool) -> None:
    verdict = verify(f"So the answer is $\\boxed{{{answer}}}$.", gold)
    assert verdict.correct == right, verdict
    assert verdict.reason in (("correct",) if right else ("wrong", "ambiguous", "unparsable"))
