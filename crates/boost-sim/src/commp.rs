//! The commitment of an imported file, with Boost's checks and error texts.
//!
//! Source: boost `storagemarket/deal_commp.go`. Up to v2.1.1 the file is mapped by `carv2.OpenReader` and the
//! inner `CARv1` of a `CARv2` is hashed; from v2.1.2 on the header is read and all bytes are hashed. Texts of
//! the header's errors: go-car v2 `internal/carv1`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use carferry_car::{NoProgress, PieceError, PieceInfo, piece_of};

use crate::version::BoostVersion;

/// Source: go-car v2 `DefaultMaxAllowedHeaderSize`.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// Bytes of the pragma and of the characteristics before the data's offset. Source: `CARv2` specification.
const CARV2_OFFSET_AT: u64 = 11 + 16;

/// Size of a file in bytes, or Go's error text of `os.Stat`.
pub(crate) fn file_size(path: &str) -> Result<u64, String> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) => Err(format!("stat {path}: {}", go_text(&error))),
    }
}

/// The commitment of a file, or the text behind `failed to generate CommP: `.
pub(crate) fn commitment(path: &str, version: BoostVersion, remote: bool) -> Result<PieceInfo, String> {
    let whole = version.hashes_whole_carv2();
    let place = if remote { "performing remote commp" } else { "performing local commp" };
    let (cannot_open, no_car) = match (whole, remote) {
        (true, true) => ("failed to get reader", "failed to read car header"),
        (true, false) => ("failed to get reader", "failed to open carv2 reader"),
        (false, _) => ("failed to get CARv2 reader", "failed to get CARv2 reader"),
    };
    read(path, whole, cannot_open, no_car).map_err(|text| format!("{place}: {text}"))
}

fn read(path: &str, whole: bool, cannot_open: &str, no_car: &str) -> Result<PieceInfo, String> {
    let mut file = open(path).map_err(|text| format!("{cannot_open}: {text}"))?;
    if !whole && file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        // Mapping a folder into memory fails with ENODEV.
        return Err(format!("{no_car}: no such device"));
    }
    let car_version = read_version(&mut file, path).map_err(|text| format!("{no_car}: {text}"))?;
    if !whole && !matches!(car_version, 1 | 2) {
        return Err(format!("{no_car}: invalid car version: {car_version}"));
    }
    let read_error = |error: io::Error| format!("writing to commp writer: read {path}: {}", go_text(&error));
    let piece = if car_version == 2 && !whole {
        let (offset, size) = inner_car(&mut file).map_err(|_error| format!("{no_car}: unexpected EOF"))?;
        file.seek(SeekFrom::Start(offset)).map_err(read_error)?;
        piece_of(file.take(size), &NoProgress)
    } else {
        file.seek(SeekFrom::Start(0)).map_err(read_error)?;
        piece_of(file, &NoProgress)
    };
    piece.map_err(|error| match error {
        PieceError::Read(error) => read_error(error),
        other => format!("failed to calculate CommP: {other}"),
    })
}

/// Opens a file for its sector, or the text behind `failed to add piece: `.
pub(crate) fn open_for_sector(path: &str, version: BoostVersion) -> Result<(), String> {
    if version.hashes_whole_carv2() {
        file_size(path)
            .map_err(|text| format!("failed to read piece data: failed to stat {path}: {text}"))?;
        let mut file = open(path).map_err(|text| {
            format!("failed to read piece data: failed to open CAR reader over {path}: {text}")
        })?;
        read_version(&mut file, path).map(|_version| ()).map_err(|text| {
            format!("failed to read piece data: failed to open CAR reader over {path}: {text}")
        })
    } else {
        let mut file = open(path).map_err(|text| format!("failed to open CARv2 file: {text}"))?;
        read_version(&mut file, path)
            .map(|_version| ())
            .map_err(|text| format!("failed to open CARv2 file: {text}"))
    }
}

fn open(path: &str) -> Result<File, String> {
    File::open(Path::new(path)).map_err(|error| format!("open {path}: {}", go_text(&error)))
}

/// The version that a CAR's header names.
fn read_version(file: &mut File, path: &str) -> Result<u64, String> {
    let mut reader = BufReader::new(file);
    let reading = |error: io::Error| format!("read {path}: {}", go_text(&error));
    let length = read_varint(&mut reader, reading)?;
    if length > HEADER_BYTES_MAX {
        return Err("invalid header data, length of read beyond allowable maximum".to_owned());
    }
    let mut header = Vec::new();
    reader.take(length).read_to_end(&mut header).map_err(reading)?;
    match u64::try_from(header.len()) {
        Ok(0) if length == 0 => Err("invalid header: EOF".to_owned()),
        Ok(0) => Err("EOF".to_owned()),
        Ok(read) if read < length => Err("unexpected EOF".to_owned()),
        _ => version_in(&header).ok_or_else(|| "invalid header: cbor: cannot decode the header".to_owned()),
    }
}

/// The value of `version` in a header, a CBOR map.
fn version_in(header: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\x67version";
    if !matches!(header.first(), Some(0xa1 | 0xa2)) {
        return None;
    }
    let at = header.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    header.get(at).copied().filter(|number| *number < 24).map(u64::from)
}

/// An unsigned varint of at most 63 bits. Source of the texts: multiformats/go-varint `varint.go`.
fn read_varint(reader: &mut impl Read, reading: impl Fn(io::Error) -> String) -> Result<u64, String> {
    let mut number = 0_u64;
    for index in 0..9 {
        let mut byte = [0];
        if reader.read(&mut byte).map_err(&reading)? == 0 {
            return Err(if index == 0 { "EOF" } else { "unexpected EOF" }.to_owned());
        }
        number |= u64::from(byte[0] & 0x7f) << (7 * index);
        match byte[0] {
            0 if index > 0 => return Err("varint not minimally encoded".to_owned()),
            0..0x80 => return Ok(number),
            _ => {}
        }
    }
    Err("varints larger than uint63 not supported".to_owned())
}

/// Offset and size of the `CARv1` inside a `CARv2`.
fn inner_car(file: &mut File) -> io::Result<(u64, u64)> {
    file.seek(SeekFrom::Start(CARV2_OFFSET_AT))?;
    let mut number = [0; 8];
    file.read_exact(&mut number)?;
    let offset = u64::from_le_bytes(number);
    file.read_exact(&mut number)?;
    Ok((offset, u64::from_le_bytes(number)))
}

/// An operating system's error as Go prints it: without its number, in lower case.
pub(crate) fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{go_text, read_varint, version_in};

    #[test]
    fn versions_are_read_from_headers() {
        assert_eq!(version_in(b"\xa1\x67version\x02"), Some(2));
        assert_eq!(version_in(b"\xa2\x65roots\x80\x67version\x01"), Some(1));
        assert_eq!(version_in(b"not a header"), None);
    }

    #[test]
    fn varints_have_the_errors_of_go() {
        let overflow = "varints larger than uint63 not supported";
        for (bytes, expected) in [
            (&[0xac, 0x02][..], Ok(300)),
            (&[], Err("EOF")),
            (&[0x80], Err("unexpected EOF")),
            (&[0x80, 0], Err("varint not minimally encoded")),
            (&[0xff; 300], Err(overflow)),
        ] {
            let read = read_varint(&mut &bytes[..], |error| error.to_string());
            assert_eq!(read, expected.map_err(str::to_owned), "{bytes:x?}");
        }
    }

    #[test]
    fn errors_read_as_in_go() {
        let missing = std::fs::File::open("/no such file").unwrap_err();
        assert_eq!(go_text(&missing), "no such file or directory");
    }
}
