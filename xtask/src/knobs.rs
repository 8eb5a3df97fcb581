//! The knobs of the verbs, read from the environment (`make` exports them).

use std::env;
use std::path::PathBuf;

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
    pub fn from_environment() -> Self {
        Self {
            board: given("BOARD"),
            memory: given("MEM"),
            cpus: given("SMP"),
            append: given("APPEND"),
            qemu: given("QEMU_ARGS").map(|all| words(&all)).unwrap_or_default(),
            initrd: given("INITRD").map(PathBuf::from),
        }
    }
}

fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Words split at white space; single or double quotes keep white space, as in a shell.
fn words(line: &str) -> Vec<String> {
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
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let table: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("  -device   edu ", &["-device", "edu"]),
            ("-append 'a b' x", &["-append", "a b", "x"]),
            ("\"a'b\"c", &["a'bc"]),
            ("'' x", &["", "x"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
