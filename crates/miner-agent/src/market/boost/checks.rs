//! What `doctor` asks of a Boost: whether the token may hand data over, which is tried on a deal that cannot
//! exist.

use carferry_core::boost::Boost;
use carferry_core::config::Secret;
use carferry_core::doctor::Check;
use carferry_core::rpc::RpcError;

/// Tries the token; calls nothing that has an effect.
pub(in crate::market) async fn check_boost(
    subject: &str,
    boost: &Boost,
    token: Option<&Secret>,
) -> Vec<Check> {
    let release = Check::ok(subject, "this is Boost: deals are looked at one by one");
    let may = match boost.try_token().await {
        Ok(()) => Check::ok(subject, "the token may hand data over"),
        Err(RpcError::Permission { .. } | RpcError::Unauthorized { .. }) if token.is_none() => Check::fail(
            subject,
            "no token: Boost tells this agent of no deal",
            "make one with `boostd auth create-token --perm admin`",
        ),
        Err(error) => Check::lotus(subject, &error),
    };
    vec![release, may]
}
