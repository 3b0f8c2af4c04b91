//! Filecoin addresses as bytes and as text.
//!
//! Source: go-address `address.go`: one byte of protocol, then an unsigned varint (0), 20 bytes (1, 2) or 48
//! bytes (3); text adds a blake2b-4 checksum and base32. Checksums are not checked.

use data_encoding::BASE32_NOPAD;

/// An address, kept with the prefix `f`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    text: String,
    bytes: Vec<u8>,
}

impl Address {
    /// Parses `f…` or `t…`. Error texts are go-address's.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix(['f', 't']).ok_or("unknown address network")?;
        let protocol = rest.chars().next().ok_or("invalid address length")?;
        let payload = rest.get(1..).unwrap_or_default();
        let bytes = match protocol {
            '0' => {
                let id: u64 = payload.parse().map_err(|_error| "invalid address payload")?;
                let mut bytes = vec![0];
                push_varint(&mut bytes, id);
                bytes
            }
            '1' => hashed(1, payload, 20)?,
            '2' => hashed(2, payload, 20)?,
            '3' => hashed(3, payload, 48)?,
            _ => return Err("unknown address protocol"),
        };
        Ok(Self { text: format!("f{rest}"), bytes })
    }

    /// The bytes of the address, as CBOR holds them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether its key is a BLS key.
    pub(crate) fn is_bls(&self) -> bool {
        self.bytes.first() == Some(&3)
    }

    /// Prints the address with the prefix of a network.
    pub(crate) fn print(&self, network_prefix: char) -> String {
        format!("{network_prefix}{}", &self.text[1..])
    }
}

fn hashed(protocol: u8, payload: &str, length: usize) -> Result<Vec<u8>, &'static str> {
    let decoded = BASE32_NOPAD
        .decode(payload.to_ascii_uppercase().as_bytes())
        .map_err(|_error| "invalid address payload")?;
    if decoded.len() != length + 4 {
        return Err("invalid address length");
    }
    let mut bytes = vec![protocol];
    bytes.extend_from_slice(&decoded[..length]);
    Ok(bytes)
}

fn push_varint(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits fit in u8");
        rest >>= 7;
        bytes.push(if rest == 0 { low } else { low | 0x80 });
        if rest == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::Address;

    #[test]
    fn addresses_have_the_bytes_of_go_address() {
        for (text, bytes) in [
            ("f01000", "00e807"),
            ("t01000", "00e807"),
            (
                "f3wnkkjtd2mhkrsahyn7b3ikm67hrnwjtheqbfahlfvezujja3m64srznf4ordef33moa4c5ju7qymgvja2sea",
                "03b354a4cc7a61d51900f86fc3b4299ef9e2db26672402501d65a93344a41b67b928e5a5e3a232177b6381c17534fc30c3",
            ),
        ] {
            assert_eq!(HEXLOWER.encode(Address::parse(text).unwrap().bytes()), bytes, "{text}");
        }
        assert_eq!(Address::parse("t01000").unwrap().print('f'), "f01000");
        for (text, error) in [
            ("x01", "unknown address network"),
            ("f9abc", "unknown address protocol"),
            ("f0x", "invalid address payload"),
            ("f1aaaa", "invalid address length"),
            ("f1aaaaaaaa", "invalid address length"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
