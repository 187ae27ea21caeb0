"""How shells complete a line: the variable by which they ask, and the lines that set it up."""

from __future__ import annotations

from click.shell_completion import FishComplete, add_completion_class

COMPLETE = "_AFFINITY_TESTER_COMPLETE"
"""The variable by which a shell asks how a line may go on; click's script for the shell sets it."""

INSTALL = f"""\b
Shell completion, a line for the shell's own file of settings:
  bash (~/.bashrc)
      eval "$({COMPLETE}=bash_source affinity-tester)"
  zsh (~/.zshrc, after compinit)
      eval "$({COMPLETE}=zsh_source affinity-tester)"
  fish (~/.config/fish/config.fish)
      {COMPLETE}=fish_source affinity-tester | source
"""


@add_completion_class
class FishCompletion(FishComplete):
    """Completion for fish whose script leaves commas to the text that it shows: click's ends that at the first one."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')
