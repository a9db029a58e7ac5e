//! The pages in `man/` match the command line. `make man` (VIDINDEX_UPDATE=1) writes them.

use std::collections::BTreeMap;
use std::path::Path;

use clap::CommandFactory;
use vidindex::cli::Cli;

fn pages(folder: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap())).collect()
}

#[test]
fn every_command_has_an_up_to_date_man_page() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let scratch = tempfile::tempdir().unwrap();
    // The pages of the subcommands of `help` would repeat all others.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), scratch.path()).unwrap();
    if std::env::var_os("VIDINDEX_UPDATE").is_some() {
        let _ = std::fs::remove_dir_all(&committed);
        std::fs::create_dir(&committed).unwrap();
        for (name, page) in pages(scratch.path()) {
            std::fs::write(committed.join(name), page).unwrap();
        }
    }
    let (written, expected) = (pages(&committed), pages(scratch.path()));
    assert!(written.keys().eq(expected.keys()), "man/ has {:?}, not {:?}", written.keys(), expected.keys());
    assert!(expected.contains_key("vidindex.1") && expected.contains_key("vidindex-models-pull.1"));
    for (name, page) in expected {
        assert!(written[&name] == page, "man/{name} is out of date: run `make man`");
    }
}
