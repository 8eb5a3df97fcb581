//! The program's first instruction is its own, so that it can look at what the kernel left in the registers.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("ARCH") == "aarch64" && target("ENV") == "musl" {
        println!("cargo:rustc-link-arg-bins=--entry=probe_first_instruction");
    }
}
