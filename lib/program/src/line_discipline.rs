//! The line discipline of a terminal: editing, echo, signal characters and output processing, as Linux's
//! `N_TTY`. It transforms bytes; the caller owns the UART, the clock and the waits.

use abi::Errno;
use abi::signal::Signal;
use abi::terminal::*;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The maximum number of bytes of input, and of a line.
const INPUT_MAX: usize = 4095;
/// The distance of tab stops.
const TAB: usize = 8;
/// The unit of [`VTIME`] in nanoseconds.
const VTIME_NS: u64 = 100_000_000;

/// An element of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Input {
    Byte(u8),
    /// The last byte of a line.
    Last(u8),
    /// The end of a line without a byte of its own: [`VEOF`].
    End,
}

/// Whether a read can return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadState {
    /// Now.
    Ready,
    /// After more input.
    Waiting,
    /// After more input, or at this time in nanoseconds.
    WaitingUntil(u64),
}

/// A terminal's modes, its input and the position of its cursor.
#[derive(Debug)]
pub struct LineDiscipline {
    termios: Termios,
    /// The input that can be read: lines in canonical mode.
    input: VecDeque<Input>,
    /// The number of ends of lines in `input`.
    lines: usize,
    /// The line that is being edited.
    line: Vec<u8>,
    /// The column of the echo of that line's start.
    line_column: usize,
    /// The next character has no function.
    is_quoted: bool,
    is_stopped: bool,
    column: usize,
    /// The time of the last received byte.
    received_at: u64,
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self::new()
    }
}

impl LineDiscipline {
    /// A terminal with [`Termios::SERIAL`].
    pub const fn new() -> Self {
        Self {
            termios: Termios::SERIAL,
            input: VecDeque::new(),
            lines: 0,
            line: Vec::new(),
            line_column: 0,
            is_quoted: false,
            is_stopped: false,
            column: 0,
            received_at: 0,
        }
    }

    /// Allocates the memory for the input, so that no later operation allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        let reserved = self.input.try_reserve(INPUT_MAX + 1).and_then(|()| self.line.try_reserve(INPUT_MAX));
        reserved.map_err(|_| Errno::ENOMEM)
    }

    /// The modes and control characters.
    pub fn termios(&self) -> Termios {
        self.termios
    }

    /// Sets modes and control characters. The control modes are those of the line, and stay as they are. In
    /// a change of the canonical mode, input that is not read yet becomes a line, or all of it readable.
    pub fn set_termios(&mut self, termios: Termios) {
        let was_canonical = self.is_canonical();
        self.termios = Termios { control: self.termios.control, ..termios };
        if was_canonical && !self.is_canonical() {
            self.input.retain(|input| *input != Input::End);
            for input in &mut self.input {
                if let Input::Last(byte) = *input {
                    *input = Input::Byte(byte);
                }
            }
            self.input.extend(self.line.drain(..).map(Input::Byte));
            self.lines = 0;
        } else if !was_canonical
            && self.is_canonical()
            && let Some(Input::Byte(byte)) = self.input.back().copied()
        {
            self.input.pop_back();
            self.push_end(Input::Last(byte));
        }
        if !self.has_input_mode(InputModes::IXON) {
            self.is_stopped = false;
        }
        self.is_quoted = false;
    }

    fn is_canonical(&self) -> bool {
        self.has(LocalModes::ICANON)
    }

    fn has(&self, mode: LocalModes) -> bool {
        LocalModes::from_bits_retain(self.termios.local).contains(mode)
    }

    fn has_input_mode(&self, mode: InputModes) -> bool {
        InputModes::from_bits_retain(self.termios.input).contains(mode)
    }

    fn has_output_mode(&self, mode: OutputModes) -> bool {
        OutputModes::from_bits_retain(self.termios.output).contains(mode)
    }

    /// Whether `byte` is the control character `index`.
    fn is_character(&self, index: usize, byte: u8) -> bool {
        byte != 0 && self.termios.characters[index] == byte
    }

    /// Whether output is suspended.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Suspends or resumes output.
    pub fn set_stopped(&mut self, is_stopped: bool) {
        self.is_stopped = is_stopped;
    }

    /// Discards all input.
    pub fn discard_input(&mut self) {
        self.input.clear();
        self.line.clear();
        self.lines = 0;
    }

    /// Processes a byte that was received at time `now`. Passes the bytes to be sent to `send`, and returns
    /// the signal to be sent to the foreground processes.
    pub fn receive(&mut self, byte: u8, now: u64, send: &mut impl FnMut(u8)) -> Option<Signal> {
        self.received_at = now;
        let byte = if self.has_input_mode(InputModes::ISTRIP) { byte & 0x7f } else { byte };
        if core::mem::take(&mut self.is_quoted) {
            self.insert(byte, send);
            return None;
        }
        if self.has_input_mode(InputModes::IXON) {
            if self.is_character(VSTART, byte) {
                self.is_stopped = false;
                return None;
            }
            if self.is_character(VSTOP, byte) {
                self.is_stopped = true;
                return None;
            }
        }
        if self.has(LocalModes::ISIG)
            && let Some(signal) = self.signal_of(byte)
        {
            if !self.has(LocalModes::NOFLSH) {
                self.discard_input();
            }
            if self.has_input_mode(InputModes::IXON) {
                self.is_stopped = false;
            }
            self.echo(byte, send);
            return Some(signal);
        }
        if self.has_input_mode(InputModes::IXON | InputModes::IXANY) {
            self.is_stopped = false;
        }
        let byte = match byte {
            b'\r' if self.has_input_mode(InputModes::IGNCR) => return None,
            b'\r' if self.has_input_mode(InputModes::ICRNL) => b'\n',
            b'\n' if self.has_input_mode(InputModes::INLCR) => b'\r',
            byte => byte,
        };
        if !(self.is_canonical() && self.edit(byte, send)) {
            self.insert(byte, send);
        }
        None
    }

    fn signal_of(&self, byte: u8) -> Option<Signal> {
        let signals = [(VINTR, Signal::SIGINT), (VQUIT, Signal::SIGQUIT), (VSUSP, Signal::SIGTSTP)];
        signals.iter().find(|(index, _)| self.is_character(*index, byte)).map(|(_, signal)| *signal)
    }

    /// Performs the function of a character in canonical mode. Returns whether it has one.
    fn edit(&mut self, byte: u8, send: &mut impl FnMut(u8)) -> bool {
        let extended = self.has(LocalModes::IEXTEN);
        if self.is_character(VERASE, byte) {
            self.erase_character(byte, send);
        } else if self.is_character(VKILL, byte) {
            self.kill(byte, send);
        } else if extended && self.is_character(VWERASE, byte) {
            self.erase_word(byte, send);
        } else if extended && self.is_character(VLNEXT, byte) {
            self.is_quoted = true;
            if self.has(LocalModes::ECHO) && self.has(LocalModes::ECHOCTL) {
                b"^\x08".iter().for_each(|&byte| send(byte));
            }
        } else if extended && self.has(LocalModes::ECHO) && self.is_character(VREPRINT, byte) {
            self.echo(byte, send);
            self.put(b'\n', send);
            self.line_column = self.column;
            (0..self.line.len()).for_each(|at| self.echo(self.line[at], send));
        } else if byte == b'\n' {
            if self.has(LocalModes::ECHO) || self.has(LocalModes::ECHONL) {
                self.put(b'\n', send);
            }
            self.end_line(Input::Last(byte), send);
        } else if self.is_character(VEOF, byte) {
            self.end_line(Input::End, send);
        } else if self.is_character(VEOL, byte) || extended && self.is_character(VEOL2, byte) {
            self.echo(byte, send);
            self.end_line(Input::Last(byte), send);
        } else {
            return false;
        }
        true
    }

    /// Adds a byte to the line, or to the input in non-canonical mode.
    fn insert(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        if self.is_full(INPUT_MAX, send) {
            return;
        }
        if self.line.is_empty() {
            self.line_column = self.column;
        }
        if self.is_canonical() {
            self.line.push(byte);
        } else {
            self.input.push_back(Input::Byte(byte));
        }
        match byte {
            b'\n' if self.has(LocalModes::ECHO) => self.put(byte, send),
            _ => self.echo(byte, send),
        }
    }

    fn is_full(&self, limit: usize, send: &mut impl FnMut(u8)) -> bool {
        let is_full = self.input.len() + self.line.len() >= limit;
        if is_full && self.has_input_mode(InputModes::IMAXBEL) {
            send(7);
        }
        is_full
    }

    /// Makes the edited line readable.
    fn end_line(&mut self, end: Input, send: &mut impl FnMut(u8)) {
        // One more than other bytes, so that a line that fills the input can be ended.
        if !self.is_full(INPUT_MAX + 1, send) {
            self.input.extend(self.line.drain(..).map(Input::Byte));
            self.push_end(end);
        }
    }

    fn push_end(&mut self, end: Input) {
        self.input.push_back(end);
        self.lines += 1;
    }

    fn erase_character(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        if self.has(LocalModes::ECHO) && !self.has(LocalModes::ECHOE) && !self.line.is_empty() {
            self.echo(byte, send);
        }
        self.pop_character(self.has(LocalModes::ECHOE), send);
    }

    /// Erases the last word, and the separators after it.
    fn erase_word(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        if self.has(LocalModes::ECHO) && !self.has(LocalModes::ECHOE) && !self.line.is_empty() {
            self.echo(byte, send);
        }
        for part in [false, true] {
            while self.line.last().is_some_and(|&last| is_word(last) == part) {
                self.pop_character(self.has(LocalModes::ECHOE), send);
            }
        }
    }

    fn kill(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        if self.line.is_empty() {
            return;
        }
        let erases = self.has(LocalModes::ECHOK | LocalModes::ECHOKE | LocalModes::ECHOE);
        while erases && !self.line.is_empty() {
            self.pop_character(true, send);
        }
        self.line.clear();
        if self.has(LocalModes::ECHO) && !erases {
            self.echo(byte, send);
            if self.has(LocalModes::ECHOK) {
                self.put(b'\n', send);
            }
        }
    }

    /// Removes the last character of the line, and its echo if `erases`.
    fn pop_character(&mut self, erases: bool, send: &mut impl FnMut(u8)) {
        let Some(mut last) = self.line.pop() else { return };
        // The first byte of the character in UTF-8.
        while self.has_input_mode(InputModes::IUTF8)
            && is_continuation(last)
            && let Some(previous) = self.line.pop()
        {
            last = previous;
        }
        if !self.has(LocalModes::ECHO) || !erases {
            return;
        }
        let start = self.line.iter().fold(self.line_column, |column, &byte| self.echoed_end(column, byte));
        let columns = self.echoed_end(start, last) - start;
        if last == b'\t' {
            (0..columns).for_each(|_| send(8));
        } else {
            (0..columns).for_each(|_| b"\x08 \x08".iter().for_each(|&byte| send(byte)));
        }
        self.column = self.column.saturating_sub(columns);
    }

    /// Returns the column after the echo of `byte` at `column`.
    fn echoed_end(&self, column: usize, byte: u8) -> usize {
        match byte {
            b'\t' => column / TAB * TAB + TAB,
            _ if byte.is_ascii_control() && self.has(LocalModes::ECHOCTL) => column + 2,
            _ if byte.is_ascii_control() => column,
            _ if self.has_input_mode(InputModes::IUTF8) && is_continuation(byte) => column,
            _ => column + 1,
        }
    }

    /// Echoes a byte that was received.
    fn echo(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        if !self.has(LocalModes::ECHO) {
            return;
        }
        if byte.is_ascii_control() && byte != b'\t' && self.has(LocalModes::ECHOCTL) {
            self.put(b'^', send);
            self.put(byte ^ 0x40, send);
        } else {
            self.put(byte, send);
        }
    }

    /// Processes a byte of output.
    pub fn put(&mut self, byte: u8, send: &mut impl FnMut(u8)) {
        if !self.has_output_mode(OutputModes::OPOST) {
            return send(byte);
        }
        match byte {
            b'\n' if self.has_output_mode(OutputModes::ONLCR) => {
                self.column = 0;
                send(b'\r');
            }
            b'\n' if self.has_output_mode(OutputModes::ONLRET) => self.column = 0,
            b'\r' if self.has_output_mode(OutputModes::ONOCR) && self.column == 0 => return,
            b'\r' if self.has_output_mode(OutputModes::OCRNL) => {
                if self.has_output_mode(OutputModes::ONLRET) {
                    self.column = 0;
                }
                return send(b'\n');
            }
            b'\r' => self.column = 0,
            b'\t' => {
                let end = self.column / TAB * TAB + TAB;
                let columns = end - core::mem::replace(&mut self.column, end);
                if self.has_output_mode(OutputModes::XTABS) {
                    return (0..columns).for_each(|_| send(b' '));
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            _ if byte.is_ascii_control() => {}
            _ if self.has_input_mode(InputModes::IUTF8) && is_continuation(byte) => {}
            _ => self.column = self.column.saturating_add(1),
        }
        send(byte);
    }

    /// The bytes that can be read: in canonical mode those of complete lines.
    pub fn available(&self) -> usize {
        self.input.iter().filter(|input| **input != Input::End).count()
    }

    /// Whether `poll` reports input.
    pub fn is_readable(&self) -> bool {
        let [time, minimum] = [VTIME, VMIN].map(|index| self.termios.characters[index]);
        let wanted = if time == 0 { minimum.max(1) } else { 1 };
        if self.is_canonical() { self.lines > 0 } else { self.input.len() >= usize::from(wanted) }
    }

    /// Returns whether a read of up to `len` bytes can return that started at time `start`.
    pub fn read_state(&self, len: usize, start: u64, now: u64) -> ReadState {
        if self.is_canonical() {
            return if self.lines > 0 { ReadState::Ready } else { ReadState::Waiting };
        }
        let [time, minimum] = [VTIME, VMIN].map(|index| self.termios.characters[index]);
        let wanted = usize::from(minimum).min(len);
        let timer = match (minimum, time) {
            (_, 0) => None,
            (0, _) => Some(start),
            // Between bytes, after the first.
            _ if self.input.is_empty() => None,
            _ => Some(start.max(self.received_at)),
        };
        let deadline = timer.map(|timer| timer + u64::from(time) * VTIME_NS);
        match deadline {
            _ if wanted > 0 && self.input.len() >= wanted => ReadState::Ready,
            _ if minimum == 0 && (time == 0 || !self.input.is_empty()) => ReadState::Ready,
            Some(deadline) if now >= deadline => ReadState::Ready,
            Some(deadline) => ReadState::WaitingUntil(deadline),
            None => ReadState::Waiting,
        }
    }

    /// Moves input to `to`: in canonical mode at most up to the end of the line. Returns the number of bytes,
    /// and whether the read continues, if it has room for more.
    pub fn read(&mut self, to: &mut [u8]) -> (usize, bool) {
        let mut count = 0;
        while count < to.len() {
            let Some(input) = self.input.pop_front() else { return (count, false) };
            let (Input::Byte(byte) | Input::Last(byte)) = input else {
                self.lines -= 1;
                return (count, false);
            };
            to[count] = byte;
            count += 1;
            if input == Input::Last(byte) {
                self.lines -= 1;
                return (count, false);
            }
        }
        // The end of the file that follows is of this read: the next one would return 0 bytes.
        if self.input.front() == Some(&Input::End) {
            self.input.pop_front();
            self.lines -= 1;
            return (count, false);
        }
        (count, !self.input.is_empty())
    }
}

/// Whether `byte` is not the first of a character in UTF-8.
fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    const SECOND: u64 = 1_000_000_000;

    /// A terminal whose modes are changed by `change`.
    fn terminal(change: impl FnOnce(&mut Termios)) -> LineDiscipline {
        let mut terminal = LineDiscipline::new();
        let mut termios = terminal.termios();
        change(&mut termios);
        terminal.set_termios(termios);
        terminal
    }

    fn raw(minimum: u8, time: u8) -> LineDiscipline {
        terminal(|termios| {
            termios.local = 0;
            (termios.characters[VMIN], termios.characters[VTIME]) = (minimum, time);
        })
    }

    /// Types `bytes`; returns the sent bytes and the signals.
    fn type_bytes(terminal: &mut LineDiscipline, bytes: &[u8]) -> (String, Vec<Signal>) {
        let (mut sent, mut signals) = (Vec::new(), Vec::new());
        for &byte in bytes {
            signals.extend(terminal.receive(byte, SECOND, &mut |byte| sent.push(byte)));
        }
        (String::from_utf8_lossy(&sent).into(), signals)
    }

    fn echo(terminal: &mut LineDiscipline, bytes: &[u8]) -> String {
        type_bytes(terminal, bytes).0
    }

    /// A read of up to `len` bytes; `None` if it blocks.
    fn read(terminal: &mut LineDiscipline, len: usize) -> Option<String> {
        if terminal.read_state(len, 0, 0) != ReadState::Ready {
            return None;
        }
        let mut bytes = vec![0; len];
        let (count, _) = terminal.read(&mut bytes);
        Some(String::from_utf8_lossy(&bytes[..count]).into())
    }

    #[test]
    fn no_operation_allocates_after_the_reservation() {
        let mut terminal = LineDiscipline::new();
        terminal.reserve().unwrap();
        let capacity = |terminal: &LineDiscipline| (terminal.input.capacity(), terminal.line.capacity());
        let reserved = capacity(&terminal);
        let canonical = terminal.termios();
        for _ in 0..3 {
            type_bytes(&mut terminal, &[b'x'; 2 * INPUT_MAX]);
            type_bytes(&mut terminal, b"\n\n");
            terminal.set_termios(raw(1, 0).termios());
            type_bytes(&mut terminal, &[b'x'; 2 * INPUT_MAX]);
            terminal.set_termios(canonical);
        }
        assert_eq!(capacity(&terminal), reserved);
    }

    #[test]
    fn line_is_readable_after_its_end() {
        let mut terminal = LineDiscipline::new();
        assert_eq!(echo(&mut terminal, b"ab"), "ab");
        assert_eq!((terminal.available(), terminal.is_readable(), read(&mut terminal, 9)), (0, false, None));
        assert_eq!(echo(&mut terminal, b"\rcd\n"), "\r\ncd\r\n");
        assert_eq!((terminal.available(), terminal.is_readable()), (6, true));
        assert_eq!(read(&mut terminal, 2).as_deref(), Some("ab"));
        let lines = [(); 3].map(|()| read(&mut terminal, 9));
        assert_eq!(lines, [Some("\n".into()), Some("cd\n".into()), None]);
    }

    #[test]
    fn end_of_file_is_an_empty_read_unless_bytes_precede_it() {
        let mut terminal = LineDiscipline::new();
        assert_eq!(echo(&mut terminal, b"\x04hello\x04x\n"), "hellox\r\n");
        assert_eq!(terminal.available(), 7);
        let reads = [5, 5, 5, 5].map(|len| read(&mut terminal, len));
        assert_eq!(reads, [Some(String::new()), Some("hello".into()), Some("x\n".into()), None]);
    }

    #[test]
    fn erased_characters_leave_line_and_screen() {
        for (typed, sent, line) in [
            (&b"ab\x7fc\n"[..], "ab\x08 \x08c\r\n", "ac\n"),
            (b"\x7f\n", "\r\n", "\n"),
            (b"a\x01\x7f\n", "a^A\x08 \x08\x08 \x08\r\n", "a\n"),
            (b"ab\t\x7f\n", "ab\t\x08\x08\x08\x08\x08\x08\r\n", "ab\n"),
            (
                b"one two_2  \x17\n",
                "one two_2  \x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08\r\n",
                "one \n",
            ),
            (b"ab\x15c\n", "ab\x08 \x08\x08 \x08c\r\n", "c\n"),
            (b"\x16\x03\n", "^\x08^C\r\n", "\x03\n"),
            (b"ab\x12\n", "ab^R\r\nab\r\n", "ab\n"),
        ] {
            let mut terminal = LineDiscipline::new();
            assert_eq!(echo(&mut terminal, typed), sent, "{typed:?}");
            assert_eq!(read(&mut terminal, 99).as_deref(), Some(line), "{typed:?}");
        }
    }

    #[test]
    fn utf8_characters_are_erased_as_one() {
        for (mode, sent, line) in [
            (0, "\u{e4}\x08 \x08\r\n", &b"\xc3\n"[..]),
            (InputModes::IUTF8.bits(), "\u{e4}\x08 \x08\r\n", b"\n"),
        ] {
            let mut terminal = terminal(|termios| termios.input |= mode);
            assert_eq!(echo(&mut terminal, b"\xc3\xa4\x7f\n"), sent);
            let mut bytes = [0; 8];
            let (count, _) = terminal.read(&mut bytes);
            assert_eq!(&bytes[..count], line);
        }
    }

    #[test]
    fn echo_follows_the_local_modes() {
        let without = |mode: LocalModes| move |termios: &mut Termios| termios.local &= !mode.bits();
        let mut silent = terminal(without(LocalModes::ECHO));
        assert_eq!(echo(&mut silent, b"a\x7fb\x15c\x03\x12\n"), "");
        let mut newline = terminal(|termios| {
            termios.local = termios.local & !LocalModes::ECHO.bits() | LocalModes::ECHONL.bits();
        });
        assert_eq!(echo(&mut newline, b"a\n"), "\r\n");
        let mut printing = terminal(without(LocalModes::ECHOE));
        assert_eq!(echo(&mut printing, b"a\x7fb\x15"), "a^?b^U\r\n");
        let mut plain = terminal(without(LocalModes::ECHOCTL));
        assert_eq!(echo(&mut plain, b"\x01\x7f\n"), "\x01\r\n");
    }

    #[test]
    fn signal_characters_discard_input_and_are_echoed() {
        let mut terminal = LineDiscipline::new();
        let (sent, signals) = type_bytes(&mut terminal, b"ab\ncd\x03e\x1c\x1a\n");
        assert_eq!(sent, "ab\r\ncd^Ce^\\^Z\r\n");
        assert_eq!(signals, [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP]);
        assert_eq!(read(&mut terminal, 9).as_deref(), Some("\n"));
        let mut kept = self::terminal(|termios| termios.local |= LocalModes::NOFLSH.bits());
        assert_eq!(type_bytes(&mut kept, b"ab\x03\n").1, [Signal::SIGINT]);
        assert_eq!(read(&mut kept, 9).as_deref(), Some("ab\n"));
        let mut off = self::terminal(|termios| termios.local &= !LocalModes::ISIG.bits());
        assert_eq!(type_bytes(&mut off, b"\x03\n"), ("^C\r\n".into(), vec![]));
        let mut disabled = self::terminal(|termios| termios.characters[VINTR] = 0);
        assert_eq!(type_bytes(&mut disabled, b"\0\x03\n").1, []);
    }

    #[test]
    fn input_modes_translate_ends_of_lines() {
        for (modes, line) in [
            (InputModes::empty(), "a\rb\n"),
            (InputModes::ICRNL, "a\n"),
            (InputModes::IGNCR | InputModes::ICRNL, "ab\n"),
            (InputModes::ISTRIP, "a\rb\n"),
        ] {
            let mut terminal = terminal(|termios| termios.input = modes.bits());
            let high = if modes == InputModes::ISTRIP { 0x80 } else { 0 };
            type_bytes(&mut terminal, &[b'a' | high, b'\r', b'b', b'\n']);
            assert_eq!(read(&mut terminal, 9).as_deref(), Some(line), "{modes:?}");
        }
        let mut returns = raw(1, 0);
        returns.set_termios(Termios { input: InputModes::INLCR.bits(), ..returns.termios() });
        type_bytes(&mut returns, b"a\nb");
        assert_eq!(read(&mut returns, 9).as_deref(), Some("a\rb"));
    }

    #[test]
    fn stop_suspends_output_until_start() {
        let mut terminal = LineDiscipline::new();
        for (byte, stopped) in [(0x13, true), (b'a', true), (0x11, false), (0x13, true), (3, false)] {
            type_bytes(&mut terminal, &[byte]);
            assert_eq!(terminal.is_stopped(), stopped, "{byte:#x}");
        }
        terminal.set_stopped(true);
        terminal.set_termios(Termios { input: 0, ..terminal.termios() });
        assert!(!terminal.is_stopped());
        type_bytes(&mut terminal, &[0x13, b'\n']);
        assert_eq!((terminal.is_stopped(), read(&mut terminal, 9).as_deref()), (false, Some("\x13\n")));
    }

    #[test]
    fn output_modes_translate_ends_of_lines_and_tabs() {
        let put = |output: u32, bytes: &[u8]| {
            let mut terminal = terminal(|termios| termios.output = output);
            let mut sent = Vec::new();
            bytes.iter().for_each(|&byte| terminal.put(byte, &mut |byte| sent.push(byte)));
            String::from_utf8(sent).unwrap()
        };
        let post = OutputModes::OPOST;
        assert_eq!(put(0, b"a\n\tb"), "a\n\tb");
        assert_eq!(put(OutputModes::ONLCR.bits(), b"\n"), "\n", "not processed");
        assert_eq!(put((post | OutputModes::ONLCR).bits(), b"a\n"), "a\r\n");
        assert_eq!(put((post | OutputModes::OCRNL).bits(), b"a\r"), "a\n");
        assert_eq!(put((post | OutputModes::ONOCR).bits(), b"\ra\r\r"), "a\r");
        assert_eq!(put((post | OutputModes::XTABS).bits(), b"ab\tc\x08\td"), "ab      c\x08        d");
    }

    #[test]
    fn any_character_resumes_output_with_ixany() {
        for (modes, stopped) in [(InputModes::IXON | InputModes::IXANY, false), (InputModes::IXON, true)] {
            let mut terminal = terminal(|termios| termios.input = modes.bits());
            type_bytes(&mut terminal, &[0x13, b'a']);
            assert_eq!(terminal.is_stopped(), stopped, "{modes:?}");
        }
    }

    #[test]
    fn characters_that_end_a_line_are_part_of_it() {
        for (extended, index, line) in [
            (true, VEOL, Some("a;")),
            (false, VEOL, Some("a;")),
            (true, VEOL2, Some("a;")),
            (false, VEOL2, None),
        ] {
            let mut terminal = terminal(|termios| {
                termios.characters[index] = b';';
                if !extended {
                    termios.local &= !LocalModes::IEXTEN.bits();
                }
            });
            assert_eq!(echo(&mut terminal, b"a;"), "a;");
            assert_eq!(read(&mut terminal, 9).as_deref(), line, "{extended} {index}");
        }
    }

    #[test]
    fn editing_characters_of_iexten_are_input_without_it() {
        let mut terminal = terminal(|termios| termios.local &= !LocalModes::IEXTEN.bits());
        type_bytes(&mut terminal, b"a b\x17\x16\x12\n");
        assert_eq!(read(&mut terminal, 9).as_deref(), Some("a b\x17\x16\x12\n"));
    }

    #[test]
    fn quoting_is_echoed_as_a_control_character_only() {
        let mut plain = terminal(|termios| termios.local &= !LocalModes::ECHOCTL.bits());
        assert_eq!(echo(&mut plain, b"\x16\x03\n"), "\x03\r\n");
        // A change of the modes ends it.
        type_bytes(&mut plain, b"\x16");
        plain.set_termios(plain.termios());
        assert_eq!(type_bytes(&mut plain, b"\x03").1, [Signal::SIGINT]);
    }

    #[test]
    fn reprinted_line_is_erased_from_its_new_column() {
        let mut terminal = LineDiscipline::new();
        // The tab ends at column 8 of the new line; the prompt was at column 4.
        b"1234".iter().for_each(|&byte| terminal.put(byte, &mut |_| ()));
        type_bytes(&mut terminal, b"\t\x12");
        assert_eq!(echo(&mut terminal, b"\x7f"), "\x08".repeat(8));
    }

    #[test]
    fn words_contain_letters_beyond_ascii() {
        let mut terminal = LineDiscipline::new();
        type_bytes(&mut terminal, "a \u{e4}\u{f6}\x17\n".as_bytes());
        assert_eq!(read(&mut terminal, 9).as_deref(), Some("a \n"));
    }

    #[test]
    fn tabs_expand_from_the_column_that_the_output_modes_leave() {
        let put = |output: OutputModes, bytes: &[u8]| {
            let modes = output | OutputModes::OPOST | OutputModes::XTABS;
            let mut terminal = terminal(|termios| termios.output = modes.bits());
            let mut sent = Vec::new();
            bytes.iter().for_each(|&byte| terminal.put(byte, &mut |byte| sent.push(byte)));
            sent.iter().filter(|&&byte| byte == b' ').count()
        };
        for (modes, bytes, spaces) in [
            (OutputModes::ONLRET, &b"abc\n\t"[..], 8),
            (OutputModes::empty(), b"abc\n\t", 5),
            (OutputModes::OCRNL | OutputModes::ONLRET, b"abc\r\t", 8),
            (OutputModes::OCRNL, b"abc\r\t", 5),
            (OutputModes::empty(), b"abc\r\t", 8),
            (OutputModes::empty(), b"a\x01\x02\t", 7),
        ] {
            assert_eq!(put(modes, bytes), spaces, "{modes:?} {bytes:?}");
        }
    }

    #[test]
    fn poll_needs_the_minimum_only_without_a_timer() {
        for (minimum, time, wanted) in [(0, 0, 1), (3, 0, 3), (3, 5, 1), (0, 5, 1)] {
            let mut terminal = raw(minimum, time);
            for typed in 0..4 {
                assert_eq!(terminal.is_readable(), typed >= wanted, "{minimum} {time} {typed}");
                type_bytes(&mut terminal, b"a");
            }
        }
    }

    #[test]
    fn raw_read_waits_for_the_minimum() {
        let mut terminal = raw(3, 0);
        for (typed, readable) in [(b'a', false), (b'\n', false), (4, true)] {
            type_bytes(&mut terminal, &[typed]);
            assert_eq!(terminal.is_readable(), readable);
            let state = if readable { ReadState::Ready } else { ReadState::Waiting };
            assert_eq!(terminal.read_state(9, 0, 0), state);
        }
        assert_eq!(terminal.read_state(1, 0, 0), ReadState::Ready);
        assert_eq!(read(&mut terminal, 9).as_deref(), Some("a\n\x04"));
        assert_eq!(read(&mut raw(0, 0), 9).as_deref(), Some(""), "no minimum");
    }

    #[test]
    fn timers_end_raw_reads() {
        use ReadState::{Ready, Waiting, WaitingUntil};
        let mut timed = raw(0, 5);
        let end = SECOND + SECOND / 2;
        assert_eq!(timed.read_state(9, SECOND, SECOND), WaitingUntil(end));
        assert_eq!(timed.read_state(9, SECOND, end), Ready);
        type_bytes(&mut timed, b"a");
        assert_eq!(timed.read_state(9, SECOND, SECOND), Ready);
        let mut between = raw(3, 5);
        assert_eq!(between.read_state(9, 0, 10 * SECOND), Waiting, "not before the first byte");
        type_bytes(&mut between, b"a");
        assert_eq!(between.read_state(9, 0, SECOND), WaitingUntil(end));
        assert_eq!(between.read_state(9, 2 * SECOND, end), WaitingUntil(2 * SECOND + SECOND / 2));
        assert_eq!(between.read_state(9, 0, end), Ready);
        type_bytes(&mut between, b"bc");
        assert_eq!(between.read_state(9, 0, SECOND), Ready);
    }

    #[test]
    fn input_survives_a_change_of_the_canonical_mode() {
        let mut terminal = LineDiscipline::new();
        type_bytes(&mut terminal, b"ab\n\x04cd");
        let canonical = terminal.termios();
        terminal.set_termios(raw(1, 0).termios());
        assert_eq!((terminal.available(), read(&mut terminal, 3).as_deref()), (5, Some("ab\n")));
        terminal.set_termios(canonical);
        assert_eq!(read(&mut terminal, 9).as_deref(), Some("cd"));
        assert_eq!(read(&mut terminal, 9), None);
        type_bytes(&mut terminal, b"ab\nc");
        terminal.discard_input();
        type_bytes(&mut terminal, b"\n");
        assert_eq!([9, 9].map(|len| read(&mut terminal, len)), [Some("\n".into()), None]);
    }

    #[test]
    fn control_modes_are_those_of_the_line() {
        let changed = terminal(|termios| (termios.control, termios.local) = (0, 0));
        assert_eq!((changed.termios().control, changed.termios().local), (Termios::SERIAL.control, 0));
    }

    #[test]
    fn input_is_limited_and_a_full_line_can_be_ended() {
        let mut terminal = terminal(|termios| termios.input |= InputModes::IMAXBEL.bits());
        type_bytes(&mut terminal, &[b'x'; INPUT_MAX]);
        assert_eq!(echo(&mut terminal, b"y"), "\x07");
        assert_eq!(echo(&mut terminal, b"\n"), "\r\n");
        assert_eq!(terminal.available(), INPUT_MAX + 1);
        for _ in 0..10 {
            type_bytes(&mut terminal, b"z\n");
        }
        assert_eq!(terminal.input.len(), INPUT_MAX + 1);
        assert_eq!(read(&mut terminal, 9999).map(|line| line.len()), Some(INPUT_MAX + 1));
    }

    /// A second implementation for plain lines: the model of canonical mode.
    #[test]
    fn random_typing_matches_a_model() {
        let mut state = 1u64;
        let mut random = |end: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % end
        };
        for _ in 0..200 {
            let mut terminal = LineDiscipline::new();
            let (mut lines, mut line, mut screen) = (Vec::new(), String::new(), Vec::new());
            let mut cursor: Vec<String> = vec![String::new()];
            for _ in 0..60 {
                let byte = b"abc \x7f\x15\x17\r\x04"[random(9) as usize];
                terminal.receive(byte, 0, &mut |byte| screen.push(byte));
                match byte {
                    0x7f => drop(line.pop()),
                    0x15 => line.clear(),
                    0x17 => {
                        line.truncate(line.trim_end_matches(' ').len());
                        line.truncate(line.rfind(' ').map_or(0, |at| at + 1));
                    }
                    b'\r' => lines.push(core::mem::take(&mut line) + "\n"),
                    4 => lines.push(core::mem::take(&mut line)),
                    _ => line.push(byte.into()),
                }
            }
            let read_lines: Vec<_> = core::iter::from_fn(|| read(&mut terminal, 99)).collect();
            assert_eq!(read_lines, lines);
            // The screen shows the lines as a terminal renders the echo.
            let mut column = 0;
            for byte in screen {
                let row = cursor.last_mut().unwrap();
                match byte {
                    8 => column -= 1,
                    b'\r' => column = 0,
                    b'\n' => cursor.push(String::new()),
                    _ => {
                        row.truncate(column);
                        row.push(byte.into());
                        column += 1;
                    }
                }
            }
            let shown = cursor.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join("\n");
            let expected: String = lines.concat() + &line;
            let expected = expected.split('\n').map(str::trim_end).collect::<Vec<_>>().join("\n");
            assert_eq!(shown, expected);
        }
    }
}
