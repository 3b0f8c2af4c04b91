//! API tokens: JSON Web Tokens signed with HMAC-SHA256, as Lotus creates them.
//!
//! What lives here: permissions, creating and verifying tokens. What does not: permissions of methods
//! (`methods`).

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::ids::sha256;

/// A permission of the API, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Read state.
    Read,
    /// Change state.
    Write,
    /// Sign with wallet keys.
    Sign,
    /// All calls.
    Admin,
}

impl Permission {
    /// All permissions, least first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Sign, Self::Admin];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sign => "sign",
            Self::Admin => "admin",
        }
    }

    fn up_to(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |permission| *permission <= self)
    }
}

/// The key of one simulator.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl Default for Secret {
    /// A random key.
    fn default() -> Self {
        Self(sha256(format!("{:x}{:x}", crate::ids::random_u64(), crate::ids::random_u64()).as_bytes()))
    }
}

impl Secret {
    /// A token with this permission and all below it, as `lotus auth create-token` gives.
    pub fn token(&self, permission: Permission) -> String {
        self.token_with(permission.up_to())
    }

    /// A token with these permissions alone, as `AuthNew` gives.
    pub fn token_with(&self, permissions: impl IntoIterator<Item = Permission>) -> String {
        let allow: Vec<_> =
            permissions.into_iter().map(|permission| format!("\"{}\"", permission.name())).collect();
        let header = BASE64URL_NOPAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let payload = BASE64URL_NOPAD.encode(format!(r#"{{"Allow":[{}]}}"#, allow.join(",")).as_bytes());
        let signed = format!("{header}.{payload}");
        let signature = BASE64URL_NOPAD.encode(&self.hmac(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The permissions of a token, or Lotus' error text for a malformed token or a wrong signature.
    ///
    /// # Errors
    ///
    /// That text.
    pub fn verify(&self, token: &str) -> Result<Vec<Permission>, &'static str> {
        const MALFORMED: &str = "jwt: malformed token";
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (_header, payload) = signed.split_once('.').ok_or(MALFORMED)?;
        let decoded = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_error| MALFORMED);
        if decoded(signature)? != self.hmac(signed.as_bytes()) {
            return Err("jwt: HMAC verification failed");
        }
        let payload: Value = serde_json::from_slice(&decoded(payload)?).map_err(|_error| MALFORMED)?;
        let names = payload.get("Allow").and_then(Value::as_array).ok_or(MALFORMED)?;
        let known = |name: &Value| Permission::ALL.into_iter().find(|permission| name == permission.name());
        Ok(names.iter().filter_map(known).collect())
    }

    fn hmac(&self, message: &[u8]) -> [u8; 32] {
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            for (left, right) in block.iter_mut().zip(self.0) {
                *left ^= right;
            }
            block
        };
        let inner = sha256(&[&pad(0x36)[..], message].concat());
        sha256(&[&pad(0x5c)[..], &inner[..]].concat())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::{Permission, Secret};

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        assert_eq!(
            HEXLOWER.encode(&Secret(key).hmac(b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn tokens_verify_only_with_their_own_key() {
        let secret = Secret::default();
        let token = secret.token(Permission::Write);
        assert_eq!(secret.verify(&token), Ok(vec![Permission::Read, Permission::Write]));
        assert_eq!(Secret::default().verify(&token), Err("jwt: HMAC verification failed"));
        assert_eq!(secret.verify("nonsense"), Err("jwt: malformed token"));
    }
}
