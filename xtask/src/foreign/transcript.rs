//! Command lines with their answers, as text.
//!
//! A line `$ COMMAND` and the lines `> MORE` after it are a command line. The indented lines after it are its
//! output, and `? STATUS` is its exit status if that is not 0. Other lines are comments.

use std::fmt::Write;

/// The indentation of output.
const INDENT: &str = "    ";
/// The start of a line of the driver script: of a command line's number, or of its status.
const MARK: &str = "@@ ";
/// The last line of the driver script.
pub const END: &str = "@@ end";

/// The answer to a command line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The lines of standard output and standard error.
    pub output: Vec<String>,
    /// The exit status.
    pub status: u8,
}

/// A part of a transcript.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Comment(String),
    Command { text: String, answer: Answer },
}

/// A text of command lines with answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transcript {
    parts: Vec<Part>,
}

impl Transcript {
    /// Parses the text.
    ///
    /// # Panics
    /// A status that is no number, or an answer without a command line.
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        for line in text.lines() {
            if let Some(first) = line.strip_prefix("$ ") {
                parts.push(Part::Command { text: first.to_owned(), answer: Answer::default() });
                continue;
            }
            match parts.last_mut() {
                Some(Part::Command { text, answer }) => {
                    if let Some(more) = line.strip_prefix("> ") {
                        *text += "\n";
                        *text += more;
                        continue;
                    }
                    if let Some(output) = line.strip_prefix(INDENT) {
                        answer.output.push(output.to_owned());
                        continue;
                    }
                    if let Some(status) = line.strip_prefix("? ") {
                        answer.status = status.parse().expect("a status is a number below 256");
                        continue;
                    }
                }
                _ => assert!(!line.starts_with(INDENT), "no command line before the output {line:?}"),
            }
            parts.push(Part::Comment(line.to_owned()));
        }
        Self { parts }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Comment(line) => text += &format!("{line}\n"),
                Part::Command { text: command, answer } => {
                    text += &format!("$ {}\n", command.replace('\n', "\n> "));
                    answer.output.iter().for_each(|line| text += &format!("{INDENT}{line}\n"));
                    if answer.status != 0 {
                        text += &format!("? {}\n", answer.status);
                    }
                }
            }
        }
        text
    }

    /// The command lines with their answers.
    pub fn commands(&self) -> impl Iterator<Item = (&str, &Answer)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Command { text, answer } => Some((text.as_str(), answer)),
            Part::Comment(_) => None,
        })
    }

    /// Replaces the answers, in order.
    pub fn set_answers(&mut self, answers: Vec<Answer>) {
        let commands = self.parts.iter_mut().filter_map(|part| match part {
            Part::Command { answer, .. } => Some(answer),
            Part::Comment(_) => None,
        });
        commands.zip(answers).for_each(|(old, new)| *old = new);
    }

    /// Replaces the comment that starts with `start`.
    pub fn set_comment(&mut self, start: &str, line: String) {
        let comment = self.parts.iter_mut().find_map(|part| match part {
            Part::Comment(text) if text.starts_with(start) => Some(text),
            _ => None,
        });
        *comment.expect("the transcript has this comment") = line;
    }
}

/// The script that runs the files in `/cases`, in order, with `shell`, each in an empty directory.
pub fn driver(shell: &str) -> String {
    format!(
        "export PATH=/bin:/tmp/bin HOME=/ TZ=UTC LC_ALL=C\n\
         mkdir -p /tmp/bin /tmp/w\n\
         busybox --install -s /tmp/bin\n\
         cd /cases\n\
         for number in *; do\n\
           echo '{MARK}'$number\n\
           cd /; rm -rf /tmp/w; mkdir /tmp/w; cd /tmp/w\n\
           timeout 20 {shell} /cases/$number </dev/null 2>&1\n\
           status=$?\n\
           echo; echo '{MARK}'status $status\n\
         done\n\
         echo '{END}'\n"
    )
}

/// The name of the file of command line `index`.
pub fn file_name(index: usize) -> String {
    format!("{index:04}")
}

/// The answers in the console of the driver script: by number, for those that ended.
pub fn answers(console: &str, count: usize) -> Vec<Option<Answer>> {
    let mut answers = vec![None; count];
    let mut current: Option<(usize, Answer)> = None;
    for line in console.lines() {
        match line.strip_prefix(MARK) {
            Some(mark) => {
                if let Some(status) = mark.strip_prefix("status ").and_then(|status| status.parse().ok()) {
                    let Some((index, mut answer)) = current.take() else { continue };
                    answer.status = status;
                    // The driver ends a line that the command line may have left open.
                    if answer.output.last().is_some_and(String::is_empty) {
                        answer.output.pop();
                    }
                    if let Some(slot) = answers.get_mut(index) {
                        *slot = Some(answer);
                    }
                } else if let Ok(index) = mark.parse() {
                    current = Some((index, Answer::default()));
                }
            }
            None => {
                if let Some((_, answer)) = &mut current {
                    answer.output.push(line.to_owned());
                }
            }
        }
    }
    answers
}

/// The difference between two answers, as lines to print.
pub fn difference(expected: &Answer, found: &Answer) -> String {
    let mut text = String::new();
    let mut side = |name: &str, answer: &Answer| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name}, status {}:", answer.status);
        answer.output.iter().for_each(|line| text += &format!("    {line}\n"));
    };
    side("Linux", expected);
    side("Tessera", found);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A comment.\n$ echo a\n    a\n\n$ cat <<X\n> two\n> X\n    two\n$ false\n? 1\n";

    #[test]
    fn text_is_parsed_and_printed_again() {
        let transcript = Transcript::parse(TEXT);
        let commands: Vec<_> = transcript.commands().map(|(text, answer)| (text, answer.status)).collect();
        assert_eq!(commands, [("echo a", 0), ("cat <<X\ntwo\nX", 0), ("false", 1)]);
        assert_eq!(transcript.text(), TEXT);
    }

    #[test]
    fn answers_are_read_from_the_console_by_number() {
        let console = "boot\n@@ 0000\na\n\n@@ status 0\n@@ 0001\nopen line\n@@ status 3\n@@ 0002\nhangs\n";
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let found = answers(console, 3);
        assert_eq!(found[0], Some(Answer { output: lines(&["a"]), status: 0 }));
        assert_eq!(found[1], Some(Answer { output: lines(&["open line"]), status: 3 }));
        assert_eq!(found[2], None, "it did not end");
    }

    #[test]
    fn recorded_answers_replace_the_old_ones() {
        let mut transcript = Transcript::parse(TEXT);
        let answer = Answer { output: vec!["new".into()], status: 2 };
        transcript.set_answers(vec![answer.clone(); 3]);
        transcript.set_comment("# A", "# Changed.".into());
        assert!(transcript.commands().all(|(_, found)| *found == answer));
        assert!(transcript.text().starts_with("# Changed.\n$ echo a\n    new\n? 2\n"));
    }
}
