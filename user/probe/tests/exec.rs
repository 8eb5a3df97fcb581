//! The probes that execute themselves also pass on the Linux build host.

use std::process::Command;

#[test]
fn exec_probes_pass_on_linux() {
    for name in ["exec", "exec-thread"] {
        let output = Command::new(env!("CARGO_BIN_EXE_probe")).arg(name).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
