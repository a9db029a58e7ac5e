//! `vidindex completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::console;
use crate::error::Result;

/// Print a script that completes commands, options and files on a shell's command line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex completions bash >~/.local/share/bash-completion/completions/vidindex
  vidindex completions zsh >~/.zfunc/_vidindex
  vidindex completions fish >~/.config/fish/completions/vidindex.fish")]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "vidindex", &mut script);
        console::print(String::from_utf8_lossy(&script).trim_end())?;
        Ok(0)
    }
}
