//! Sets the entry point to `probe_first_instruction`, which records the initial register values.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("ARCH") == "aarch64" && target("ENV") == "musl" {
        println!("cargo:rustc-link-arg-bins=--entry=probe_first_instruction");
    }
}
