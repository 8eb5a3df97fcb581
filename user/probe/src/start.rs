//! Program startup and exit.

use std::env;

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// Prints a line.
pub fn hello(_: &[String]) -> ProbeResult {
    println!("hello from EL0, with std");
    Ok(())
}

/// Exits with the given status.
pub fn exit(arguments: &[String]) -> ProbeResult {
    match arguments.first().and_then(|text| text.parse().ok()) {
        Some(status) => std::process::exit(status),
        None => Err("usage: exit STATUS".into()),
    }
}

/// Prints arguments, environment and auxiliary vector, and checks required entries.
pub fn arguments(_: &[String]) -> ProbeResult {
    env::args().enumerate().for_each(|(n, argument)| println!("  argv[{n}] = {argument}"));
    env::vars().for_each(|(name, value)| println!("  {name}={value}"));
    for (name, kind) in ENTRIES {
        println!("  {name} = {:#x}", raw::auxiliary(kind));
    }
    ensure(env::args().count() >= 2, || "argv[0] and the probe's name are missing".into())?;
    let page = raw::auxiliary(libc::AT_PAGESZ);
    ensure(page == 4096, || format!("AT_PAGESZ is {page}"))?;
    for (name, kind) in ENTRIES.into_iter().filter(|(_, kind)| *kind != libc::AT_HWCAP) {
        ensure(raw::auxiliary(kind) != 0, || format!("{name} is missing"))?;
    }
    let headers = raw::auxiliary(libc::AT_PHENT);
    ensure(headers == 56, || format!("AT_PHENT is {headers}"))
}

const ENTRIES: [(&str, u64); 7] = [
    ("AT_PAGESZ", libc::AT_PAGESZ),
    ("AT_RANDOM", libc::AT_RANDOM),
    ("AT_HWCAP", libc::AT_HWCAP),
    ("AT_PHDR", libc::AT_PHDR),
    ("AT_PHENT", libc::AT_PHENT),
    ("AT_PHNUM", libc::AT_PHNUM),
    ("AT_ENTRY", libc::AT_ENTRY),
];
