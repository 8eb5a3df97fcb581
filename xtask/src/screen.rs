//! A guest's screen, captured from QEMU while it runs (QMP, `screendump`).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU's arguments for QMP at `socket`.
pub fn arguments(socket: &Path) -> [String; 2] {
    ["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]
}

/// Writes the screen to `picture`, a PPM file.
pub fn dump(socket: &Path, picture: &Path) -> std::io::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(20);
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    let shown = picture.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let commands = [
        r#"{"execute":"qmp_capabilities"}"#.to_owned(),
        format!(r#"{{"execute":"screendump","arguments":{{"filename":"{shown}"}}}}"#),
    ];
    for command in commands {
        writeln!(stream, "{command}")?;
        // Events, and the greeting, come before the response.
        let answer = answers.by_ref().find(|line| {
            line.as_ref().map_or(true, |line| line.contains("\"return\"") || line.contains("\"error\""))
        });
        match answer {
            Some(Ok(line)) if line.contains("\"return\"") => {}
            Some(Ok(line)) => return Err(std::io::Error::other(line)),
            Some(Err(error)) => return Err(error),
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(())
}

/// The failures of the mosaic that the kernel draws on a Raspberry Pi: 8 by 6 tiles of 80 pixels.
pub fn check_mosaic(ppm: &[u8]) -> Vec<String> {
    let Some(pixels) = ppm.strip_prefix(b"P6\n640 480\n255\n") else {
        return vec!["the screenshot is not a 640 x 480 PPM file".into()];
    };
    let at = |x: usize, y: usize| pixels.get((y * 640 + x) * 3..).and_then(|rest| rest.first_chunk::<3>());
    let tiles = (0..6usize).flat_map(|row| (0..8usize).map(move |column| (column, row)));
    let wrong = tiles.filter(|&(column, row)| {
        let blue = if (column + row).is_multiple_of(2) { 255 } else { 64 };
        let colour = [32 * column as u8, 40 * row as u8, blue];
        let corners = [(0, 0), (79, 0), (0, 79), (79, 79)];
        corners.iter().any(|(x, y)| at(column * 80 + x, row * 80 + y) != Some(&colour))
    });
    let wrong: Vec<_> = wrong.map(|(column, row)| format!("{column},{row}")).collect();
    if wrong.is_empty() { Vec::new() } else { vec![format!("tiles of a wrong colour: {}", wrong.join(" "))] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_tile_is_reported() {
        let mut ppm = b"P6\n640 480\n255\n".to_vec();
        for y in 0..480 {
            for x in 0..640 {
                let (column, row) = (x / 80, y / 80);
                ppm.extend([
                    32 * column as u8,
                    40 * row as u8,
                    if (column + row) % 2 == 0 { 255 } else { 64 },
                ]);
            }
        }
        assert_eq!(check_mosaic(&ppm), [""; 0]);
        let last = ppm.len() - 1;
        ppm[last] ^= 1;
        assert_eq!(check_mosaic(&ppm), ["tiles of a wrong colour: 7,5"]);
        assert_eq!(check_mosaic(&ppm[1..]).len(), 1);
    }
}
