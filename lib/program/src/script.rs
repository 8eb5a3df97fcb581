//! Scripts: files that name their interpreter in the first line.

/// The bytes of a file that are searched for the first line, as in Linux (`BINPRM_BUF_SIZE`).
const LINE_MAX: usize = 256;

/// The interpreter of a script, and the argument that its line has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScriptInterpreter<'a> {
    /// The path.
    pub path: &'a [u8],
    /// The rest of the line, without the white space around it.
    pub argument: Option<&'a [u8]>,
}

/// The interpreter of the script with this content; `None` if the file does not start with `#!` and a path.
/// A path that is longer than the searched bytes is no interpreter; an argument is cut off there.
pub fn script_interpreter(content: &[u8]) -> Option<ScriptInterpreter<'_>> {
    let searched = content.strip_prefix(b"#!")?;
    let searched = &searched[..searched.len().min(LINE_MAX - 2)];
    let end = searched.iter().position(|&byte| byte == b'\n');
    let is_complete = end.is_some() || content.len() <= LINE_MAX;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = searched[..end.unwrap_or(searched.len())].trim_ascii_start();
    let path_len = line.iter().position(is_space);
    let path = &line[..path_len.unwrap_or(line.len())];
    if path.is_empty() || path_len.is_none() && !is_complete {
        return None;
    }
    let argument = line[path.len()..].trim_ascii();
    Some(ScriptInterpreter { path, argument: (!argument.is_empty()).then_some(argument) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// The path and the argument.
    type ScriptLine<'a> = Option<(&'a [u8], Option<&'a [u8]>)>;

    fn parsed(content: &[u8]) -> ScriptLine<'_> {
        script_interpreter(content).map(|script| (script.path, script.argument))
    }

    #[test]
    fn first_line_names_interpreter_and_argument() {
        let cases: [(&[u8], ScriptLine<'_>); 9] = [
            (b"#!/bin/sh\necho", Some((b"/bin/sh", None))),
            (b"#!/bin/sh", Some((b"/bin/sh", None))),
            (b"#! /bin/sh -e \n", Some((b"/bin/sh", Some(b"-e")))),
            (b"#!\t/usr/bin/env\tbusybox ash\n", Some((b"/usr/bin/env", Some(b"busybox ash")))),
            (b"#!\n/bin/sh", None),
            (b"#!   ", None),
            (b"#/bin/sh", None),
            (b"", None),
            (b"\x7fELF", None),
        ];
        for (content, expected) in cases {
            assert_eq!(parsed(content), expected, "{:?}", content.escape_ascii());
        }
    }

    #[test]
    fn line_is_limited() {
        let line = |len: usize| [b"#!/", "x".repeat(len - 3).as_bytes(), b"\n"].concat();
        assert_eq!(parsed(&line(255)).map(|(path, _)| path.len()), Some(253));
        assert_eq!(parsed(&line(256)), None, "the path may be cut off");
        let long: Vec<u8> = [b"#!/bin/sh ", "x".repeat(400).as_bytes(), b"\n"].concat();
        assert_eq!(parsed(&long).map(|(_, argument)| argument.unwrap().len()), Some(LINE_MAX - 10));
    }
}
