//! Reads CAR headers, computes piece commitments of files, and prints errors as Go does.
//!
//! What lives here: files. What does not: deals.

use std::fs::File;
use std::io;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use carferry_car::{BuildOptions, NoProgress, ThreadBudget, build_car, piece_of_file};

use crate::ids::{Cid, sha256};

/// Longest header that is read.
const HEADER_MAX: u64 = 1 << 20;
/// The eleven bytes a `CARv2` starts with.
const V2_PRAGMA: [u8; 11] = [0x0a, 0xa1, 0x67, b'v', b'e', b'r', b's', b'i', b'o', b'n', 0x02];

/// Piece commitment and size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) cid: Cid,
    pub(crate) payload_size: u64,
    pub(crate) padded_size: u64,
}

impl Piece {
    /// The natural unpadded size.
    pub(crate) fn unpadded_size(&self) -> u64 {
        self.padded_size / 128 * 127
    }
}

/// Commitment of a file's bytes.
pub(crate) fn commp_of(path: &Path) -> io::Result<Piece> {
    let piece =
        piece_of_file(&ThreadBudget::alone(), &File::open(path)?, &NoProgress).map_err(io::Error::other)?;
    let cid = Cid::try_from(piece.piece_cid.to_bytes()).map_err(io::Error::other)?;
    Ok(Piece { cid, payload_size: piece.payload_size.get(), padded_size: piece.padded_piece_size.get() })
}

/// The commitment of the same bytes in a larger piece, padded with zeros level by level (§6.2).
pub(crate) fn pad_commitment(cid: &Cid, from: u64, to: u64) -> Cid {
    let mut zero = [0_u8; 32];
    let mut size = 32;
    let join = |left: &[u8], right: &[u8]| {
        let mut node = sha256(&[left, right].concat());
        node[31] &= 0x3f;
        node
    };
    while size < from {
        zero = join(&zero, &zero);
        size *= 2;
    }
    let mut node = cid.hash().digest().to_vec();
    while size < to {
        node = join(&node, &zero).to_vec();
        zero = join(&zero, &zero);
        size *= 2;
    }
    let hash = cid::multihash::Multihash::wrap(cid.hash().code(), &node).expect("32 bytes fit");
    Cid::new_v1(cid.codec(), hash)
}

/// The one root of a CAR, version 1 or 2. Error texts: §2.5.
pub(crate) fn car_root(path: &Path) -> Result<Cid, String> {
    let mut file = File::open(path)
        .map_err(|error| format!("failed to open CAR file: {}", go_open_error(path, &error)))?;
    let unreadable = |error: String| format!("failed to read CAR header: {error}");
    let mut start = [0; 11];
    let found = read_up_to(&mut file, &mut start).map_err(|error| unreadable(error.to_string()))?;
    let mut at = 0;
    if found == start.len() && start == V2_PRAGMA {
        let mut header = [0; 40];
        file.read_exact(&mut header).map_err(|error| unreadable(error.to_string()))?;
        at = u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
    }
    file.seek(SeekFrom::Start(at)).map_err(|error| unreadable(error.to_string()))?;
    let length = read_varint(&mut file).map_err(|error| unreadable(error.to_string()))?;
    if length == 0 || length > HEADER_MAX {
        return Err(unreadable(format!("invalid header length {length}")));
    }
    let mut header = Vec::new();
    let read = file.take(length).read_to_end(&mut header).map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(read).ok() != Some(length) {
        return Err(unreadable("unexpected EOF".to_owned()));
    }
    let (roots, version) = decode_header(&header).ok_or_else(|| unreadable("invalid header".to_owned()))?;
    if version != 1 {
        return Err(format!("car version must be 1 or 2, is {version}"));
    }
    match roots.as_slice() {
        [root] => Ok(*root),
        _ => Err("car file can have one and only one header".to_owned()),
    }
}

/// Packs a file as `ClientGenCar` does. An existing output is replaced.
pub(crate) fn generate_car(source: &Path, output: &Path) -> Result<Cid, String> {
    let file = File::open(source).map_err(|error| go_open_error(source, &error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(format!("read {}: is a directory", source.display()));
    }
    let create = || {
        output.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        File::create(output)
    };
    let out = create().map_err(|error| go_open_error(output, &error))?;
    let built = build_car(&ThreadBudget::alone(), source, &out, &BuildOptions::default(), &NoProgress)
        .map_err(|error| error.to_string())?;
    Cid::try_from(built.payload_cid.to_bytes()).map_err(|error| error.to_string())
}

/// `open /x: no such file or directory`.
pub(crate) fn go_open_error(path: &Path, error: &io::Error) -> String {
    format!("open {}: {}", path.display(), go_error(error))
}

/// Go's text for an error of the operating system.
pub(crate) fn go_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::StorageFull => "no space left on device".to_owned(),
        _ => error.to_string(),
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn read_varint(file: &mut File) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "varint too long"))
}

/// `{"roots": [CID…], "version": N}` in dag-cbor.
fn decode_header(mut bytes: &[u8]) -> Option<(Vec<Cid>, u64)> {
    let bytes = &mut bytes;
    let (mut roots, mut version) = (Vec::new(), 0);
    let (5, fields) = head(bytes)? else { return None };
    for _ in 0..fields {
        let (3, length) = head(bytes)? else { return None };
        match take(bytes, length)? {
            b"version" => {
                let (0, number) = head(bytes)? else { return None };
                version = number;
            }
            b"roots" => {
                let (4, count) = head(bytes)? else { return None };
                for _ in 0..count {
                    let (6, 42) = head(bytes)? else { return None };
                    let (2, length) = head(bytes)? else { return None };
                    roots.push(Cid::try_from(take(bytes, length)?.strip_prefix(&[0])?).ok()?);
                }
            }
            _ => return None,
        }
    }
    Some((roots, version))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Major type and argument of the next item.
fn head(bytes: &mut &[u8]) -> Option<(u8, u64)> {
    let first = *take(bytes, 1)?.first()?;
    let argument = match first & 0x1f {
        small @ 0..=23 => u64::from(small),
        long @ 24..=27 => {
            let width = 1_u64 << (long - 24);
            take(bytes, width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
        _ => return None,
    };
    Some((first >> 5, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_up_equals_more_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("piece");
        let content: Vec<u8> = (0..200_u8).collect();
        std::fs::write(&path, &content).unwrap();
        let small = commp_of(&path).unwrap();
        assert_eq!((small.payload_size, small.padded_size, small.unpadded_size()), (200, 256, 254));
        std::fs::write(&path, [content, vec![0; 1900 - 200]].concat()).unwrap();
        let large = commp_of(&path).unwrap();
        assert_eq!(pad_commitment(&small.cid, small.padded_size, large.padded_size), large.cid);
    }

    #[test]
    fn roots_are_read_and_everything_else_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.car");
        // The empty file of the contract's table: root bafkqaaa, 31 bytes with its one section.
        let mut car = vec![0x18, 0xa2, 0x65];
        car.extend_from_slice(b"roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00");
        car.push(0x67);
        car.extend_from_slice(b"version\x01");
        car[0] = u8::try_from(car.len() - 1).unwrap();
        std::fs::write(&path, &car).unwrap();
        assert_eq!(car_root(&path).unwrap().to_string(), "bafkqaaa");
        std::fs::write(&path, b"not a car").unwrap();
        assert!(car_root(&path).unwrap_err().starts_with("failed to read CAR header"));
        assert_eq!(
            car_root(Path::new("/nowhere/x.car")).unwrap_err(),
            "failed to open CAR file: open /nowhere/x.car: no such file or directory"
        );
    }
}
