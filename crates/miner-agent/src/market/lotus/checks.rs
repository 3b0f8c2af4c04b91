//! What `doctor` asks of Lotus' own market: its version, and what the token may do.

use carferry_core::config::Secret;
use carferry_core::doctor::Check;
use carferry_core::lotus::Provider;

use crate::market::ImportMethod;

/// Asks for the version, and what the token may do; calls nothing that has an effect.
pub(in crate::market) async fn check_lotus(
    subject: &str,
    provider: &Provider,
    token: Option<&Secret>,
    method: ImportMethod,
) -> Vec<Check> {
    let version = match provider.version().await {
        Ok(version) => Check::ok(subject, format!("version {}", version.version)),
        Err(error) => Check::lotus(subject, &error),
    };
    vec![version, check_token(subject, provider, token, needed_permission(method)).await]
}

/// The permission that the import method needs.
fn needed_permission(method: ImportMethod) -> &'static str {
    match method {
        ImportMethod::Market => "write",
        ImportMethod::Deals => "admin",
    }
}

async fn check_token(subject: &str, provider: &Provider, token: Option<&Secret>, needed: &str) -> Check {
    match token.map(Secret::expose) {
        None => Check::warn(
            subject,
            "no token: the node lets this agent read only, unless it asks nobody for tokens",
            format!("make one with `lotus-miner auth create-token --perm {needed}`"),
        ),
        Some(token) => match provider.permissions(token).await {
            Ok(permissions) => permission_check(subject, &permissions, needed),
            Err(error) => Check::lotus(subject, &error),
        },
    }
}

fn permission_check(subject: &str, permissions: &[String], needed: &str) -> Check {
    let seen = format!("the token may {}", permissions.join(", "));
    if permissions.iter().any(|permission| permission == needed) {
        Check::ok(subject, seen)
    } else {
        Check::fail(
            subject,
            format!("{seen}; imports need {needed}"),
            format!("make a token with `lotus-miner auth create-token --perm {needed}`"),
        )
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::doctor::Severity;

    use super::*;

    #[test]
    fn a_token_without_the_permission_fails_with_the_command_that_makes_one() {
        let permissions = ["read".to_owned(), "write".to_owned()];
        assert_eq!(permission_check("market f01", &permissions, "write").state, Severity::Ok);
        let check = permission_check("market f01", &permissions, "admin");
        assert_eq!(check.state, Severity::Fail);
        assert!(check.hint.unwrap().contains("--perm admin"));
    }
}
