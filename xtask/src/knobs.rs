//! The parameters of `run`, `debug` and `image`, read from the environment (`make` exports them).

use std::env;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The help on the knobs.
pub const HELP: &str = "\
knobs of run, debug and image, in the environment or on the command line of make:
  BOARD      virt (default), a version such as virt-9.1, raspi3b, raspi4b, sbsa-ref; for image: generic or rpi
  MEM        RAM, such as 512M; default 2G (not on a Raspberry Pi)
  SMP        number of CPUs; default 4 (not on a Raspberry Pi)
  APPEND     boot arguments; default \"lowmem=256M\"
  INITRD     path of an initramfs to boot instead of the built one
  QEMU_ARGS  more arguments for QEMU";

/// The largest number of CPUs of QEMU's `virt`.
const MAX_CPUS: u32 = 512;

/// The parameters of a run. An empty value counts as not given.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    /// `BOARD=`: a QEMU machine; default `virt`. For `make image`: `rpi` or `generic`.
    pub board: Option<String>,
    /// `MEM=`: QEMU's `-m`; default 2G.
    pub memory: Option<String>,
    /// `SMP=`: QEMU's `-smp`; default 4.
    pub cpus: Option<String>,
    /// `APPEND=`: the boot arguments; default [`crate::run::DEFAULT_APPEND`].
    pub append: Option<String>,
    /// `QEMU_ARGS=`: more arguments for QEMU, split at white space and put last, so that they override.
    pub qemu: Vec<String>,
    /// `INITRD=`: another initramfs than the built one.
    pub initrd: Option<PathBuf>,
}

impl Knobs {
    /// Reads the environment.
    ///
    /// # Errors
    /// A value is not of the knob's form.
    pub fn from_environment() -> Result<Self> {
        Self::from(|name| env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let checked = |name, is_valid: fn(&str) -> bool, requirement: &str| match given(name) {
            Some(value) if !is_valid(&value) => {
                Err(Error::Knob { name, value, requirement: requirement.to_owned() })
            }
            value => Ok(value),
        };
        let qemu = given("QEMU_ARGS").unwrap_or_default();
        let quotes = |line: &str| Error::Knob {
            name: "QEMU_ARGS",
            value: line.to_owned(),
            requirement: "a quotation mark is not closed".into(),
        };
        let is_file = |path: &str| PathBuf::from(path).is_file();
        Ok(Self {
            board: given("BOARD"),
            memory: checked("MEM", is_size, "must be a size in MiB, or with a unit such as 512M or 4G")?,
            cpus: checked("SMP", is_cpus, &format!("must be a number of CPUs, 1 to {MAX_CPUS}"))?,
            append: given("APPEND"),
            qemu: words(&qemu).ok_or_else(|| quotes(&qemu))?,
            initrd: checked("INITRD", is_file, "must be the path of an initramfs file")?.map(PathBuf::from),
        })
    }
}

/// Whether QEMU's `-m` accepts the text as a size.
fn is_size(text: &str) -> bool {
    addr::parse_size(text).is_ok_and(|size| size > 0)
}

fn is_cpus(text: &str) -> bool {
    text.parse().is_ok_and(|number| (1..=MAX_CPUS).contains(&number))
}

/// Words split at white space; single or double quotes keep white space, as in a shell. `None` for an open
/// quote.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), _) if c == open => quote = None,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_like_a_shell_command() {
        let table: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("  -device   edu ", &["-device", "edu"]),
            ("-append 'a b' x", &["-append", "a b", "x"]),
            ("\"a'b\"c", &["a'bc"]),
            ("'' x", &["", "x"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert_eq!(words("-append 'a b"), None);
    }

    #[test]
    fn an_invalid_value_is_reported_with_its_knob() {
        let knobs = |name: &str, value: &str| {
            Knobs::from(|asked| (asked == name).then(|| value.to_owned())).map_err(|error| error.to_string())
        };
        let invalid = [
            ("MEM", "banana"),
            ("MEM", "0"),
            ("MEM", "2GB"),
            ("MEM", "-1"),
            ("SMP", "0"),
            ("SMP", "many"),
            ("SMP", "513"),
            ("INITRD", "/nonexistent"),
            ("INITRD", "/"),
            ("QEMU_ARGS", "'-s"),
        ];
        for (name, value) in invalid {
            assert!(knobs(name, value).unwrap_err().starts_with(&format!("{name}={value}: ")));
        }
        for (name, value) in [("MEM", "512"), ("MEM", "2g"), ("SMP", "8"), ("MEM", ""), ("QEMU_ARGS", "-s")] {
            assert!(knobs(name, value).is_ok(), "{name}={value}");
        }
    }
}
