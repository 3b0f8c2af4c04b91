//! What `doctor` asks of a market node: its version, what the token may do, and whether it lists its deals.

use carferry_core::config::Secret;
use carferry_core::doctor::Check;

use crate::market::ImportMethod;
use crate::market::node::Node;

/// The answers of a market node.
#[derive(Debug)]
pub struct NodeChecks {
    /// Version and token.
    pub checks: Vec<Check>,
    /// How many deals it lists, or that it lists none.
    pub listed: Result<u64, Check>,
}

/// Asks a market node; calls nothing that has an effect.
pub async fn check_node(subject: &str, node: &Node, method: ImportMethod) -> NodeChecks {
    let provider = &node.provider;
    let version = match provider.version().await {
        Ok(version) => Check::ok(subject, format!("version {}", version.version)),
        Err(error) => Check::lotus(subject, &error),
    };
    let token = check_token(subject, node, needed_permission(method)).await;
    let listed = match provider.list_deals().await {
        Ok(deals) => Ok(u64::try_from(deals.len()).unwrap_or(u64::MAX)),
        Err(error) => Err(Check::lotus(subject, &error)),
    };
    NodeChecks { checks: vec![version, token], listed }
}

/// The permission that the import method needs.
fn needed_permission(method: ImportMethod) -> &'static str {
    match method {
        ImportMethod::Market => "write",
        ImportMethod::Deals => "admin",
    }
}

async fn check_token(subject: &str, node: &Node, needed: &str) -> Check {
    match node.token.as_ref().map(Secret::expose) {
        None => Check::warn(
            subject,
            "no token: the node lets this agent read only, unless it asks nobody for tokens",
            format!("make one with `lotus-miner auth create-token --perm {needed}`"),
        ),
        Some(token) => match node.provider.permissions(token).await {
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
