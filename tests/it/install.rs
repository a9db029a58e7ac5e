//! What `make install` and `make package` produce works outside of the repository.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_vidindex");

fn script(name: &str, args: [&Path; 2]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci").join(name);
    Command::new(script).args(args).output().unwrap()
}

/// Runs a command that must succeed, and returns its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the installed binary outside of this repository, and without the variables that locate ONNX Runtime.
fn installed(prefix: &Path, elsewhere: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(prefix.join("bin/vidindex"));
    command.args(args).current_dir(elsewhere).env_remove("VIDINDEX_ONNXRUNTIME").env_remove("ORT_DYLIB_PATH");
    command.output().unwrap()
}

#[test]
fn an_installed_binary_has_its_own_onnx_runtime_man_pages_and_completions() {
    let (scratch, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let prefix = scratch.path().join("usr");
    // The second time, it replaces an earlier installation.
    for _ in 0..2 {
        let output = script("install.sh", [Path::new(BINARY), &prefix]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(installed(&prefix, &elsewhere, &["--version"]).status.success());
    for file in ["man/man1/vidindex-run.1", "bash-completion/completions/vidindex", "zsh/site-functions/_vidindex"] {
        assert!(std::fs::metadata(prefix.join("share").join(file)).unwrap().len() > 100, "{file}");
    }
    if Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnxruntime").exists() {
        let report = String::from_utf8(installed(&prefix, &elsewhere, &["doctor"]).stdout).unwrap();
        let line = report.lines().find(|line| line.contains("ONNX Runtime")).unwrap();
        assert!(line.contains(prefix.join("lib/vidindex").to_str().unwrap()), "{report}");
    } else {
        assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), ".onnxruntime is missing: run make setup");
    }
}

#[test]
fn an_install_without_a_binary_reports_how_to_build_it() {
    let scratch = TempDir::new().unwrap();
    let output = script("install.sh", [Path::new("target/missing/vidindex"), scratch.path()]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("make dist"));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_package_can_be_unpacked_and_run_anywhere() {
    let (scratch, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let packed = script("package.sh", [Path::new(BINARY), scratch.path()]);
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let name = format!("vidindex-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let archive = scratch.path().join(format!("{name}.tar.gz"));
    let sum = format!("{name}.tar.gz.sha256");
    output(Command::new("sha256sum").current_dir(&scratch).args(["--check", &sum]));
    output(Command::new("tar").arg("-xzf").arg(archive).current_dir(&elsewhere));
    assert!(installed(&elsewhere.path().join(&name), &elsewhere, &["--version"]).status.success());
    assert!(elsewhere.path().join(&name).join("LICENSE").is_file());
}
