"""The paper's two kinds of figures, from the code's own losses and from run folders.

`weights` draws what losses make of W, `training` how runs went; `python -m vespo_openrlhf.figure`
is the command.
"""
