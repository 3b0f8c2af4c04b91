//! The checks of the Lotus full node.

use std::sync::Arc;
use std::time::Duration;

use carferry_core::config::Secret;
use carferry_core::doctor;
use carferry_core::doctor::Check;
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::lotus::FullNode;
use carferry_core::model::{AttoFil, PublishMethod};
use carferry_core::rpc::endpoint::resolve_full_node;
use carferry_core::rpc::{Client, RpcError};
use carferry_core::store::Store;
use futures::future::join_all;
use indicatif::{BinaryBytes, HumanDuration};
use tokio::time::timeout;

use crate::chain_head::{HEAD_AGE_MAX, NodeHead, may_be_behind};
use crate::config::{Config, PublishChoice, SyncRule};
use crate::propose::conditions::PublishCalls;
use crate::propose::lotus::answers::is_unknown_actor;

/// A head this old still comes with null rounds and a slow network: ten epochs.
const HEAD_AGE_WARN: Duration = Duration::from_secs(300);
/// How long one provider may take to tell its ask.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// The first Lotus without storage market. Source: lotus v1.27.1 `CHANGELOG.md`.
const WITHOUT_MARKET: [u64; 3] = [1, 27, 1];

pub(super) async fn checks(config: &Config, store: Option<&Store>, now: Duration) -> Vec<Check> {
    const LOTUS: &str = "lotus";
    let endpoint = match resolve_full_node(&config.lotus, &|name| std::env::var(name).ok()) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            return vec![Check::fail(LOTUS, ErrorChain(&error).to_string(), hint)];
        }
    };
    let client = match Client::of(&endpoint, config.call_timeouts()) {
        Ok(client) => client,
        Err(error) => return vec![Check::lotus(LOTUS, &error)],
    };
    let node = FullNode::new(client);
    let version = match node.version().await {
        Ok(version) => version.version,
        Err(error) => return vec![Check::lotus(LOTUS, &error)],
    };
    let mut checks = vec![Check::ok(LOTUS, format!("{version} at {endpoint}"))];
    checks.extend(doctor::token_in_clear("token", &endpoint));
    let methods = methods(&node).await;
    checks.push(match &methods {
        Ok(methods) => judge_market(&version, *methods),
        Err(error) => Check::lotus("market", error),
    });
    checks.push(permissions(&node, endpoint.token.as_ref().map(Secret::expose), config, methods.ok()).await);
    checks.push(match NodeHead::ask(&node).await {
        Ok(head) => {
            let may_be_off = may_be_behind(&node, config.sync_rule()).await.unwrap_or(false);
            let rule = if may_be_off { SyncRule::NotOnTestNetworks } else { SyncRule::Required };
            judge_head(&head, now, rule)
        }
        Err(error) => Check::lotus("node sync", &error),
    });
    checks.extend(wallet(&node, config).await);
    checks.extend(deals(&node, config, store).await);
    checks.extend(miners(&node, config).await);
    checks
}

async fn methods(node: &FullNode) -> Result<PublishCalls, RpcError> {
    // A node that wants another permission for a method has the method.
    let has = |answer: Result<bool, RpcError>| match answer {
        Err(RpcError::Permission { .. }) => Ok(true),
        other => other,
    };
    Ok(PublishCalls {
        start: has(node.has_method(PublishMethod::Start).await)?,
        stateless: has(node.has_method(PublishMethod::Stateless).await)?,
    })
}

fn judge_market(version: &str, methods: PublishCalls) -> Check {
    const NAME: &str = "market";
    match (methods.start, methods.stateless) {
        (true, true) => Check::ok(NAME, "ClientStartDeal and ClientStatelessDeal"),
        (true, false) => Check::ok(NAME, "ClientStartDeal; no ClientStatelessDeal, which came with v1.11.0"),
        (false, true) => Check::ok(NAME, "ClientStatelessDeal only: deals of price 0"),
        (false, false) => {
            let removed = number(version).is_some_and(|version| version >= WITHOUT_MARKET);
            let detail = if removed {
                format!("Lotus {version} has no storage market: it was removed in v1.27.1")
            } else {
                format!("this node ({version}) has neither ClientStartDeal nor ClientStatelessDeal")
            };
            Check::fail(NAME, detail, "deals need a full node of Lotus v1.27.0 or earlier")
        }
    }
}

/// `1.23.3+mainnet+git.7bb1f98ac` → 1, 23, 3.
fn number(version: &str) -> Option<[u64; 3]> {
    let numbers = version.trim_start_matches('v').split(['+', '-']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

async fn permissions(
    node: &FullNode,
    token: Option<&str>,
    config: &Config,
    methods: Option<PublishCalls>,
) -> Check {
    const NAME: &str = "token";
    let Some(token) = token else {
        return Check::fail(
            NAME,
            "no token: the node lets this agent read only",
            "set lotus.tokenFile; `lotus auth create-token --perm admin` makes a token",
        );
    };
    match node.permissions(token).await {
        Ok(granted) => judge_permissions(&granted, config, methods),
        Err(error) => Check::lotus(NAME, &error),
    }
}

fn judge_permissions(granted: &[String], config: &Config, methods: Option<PublishCalls>) -> Check {
    const NAME: &str = "token";
    let may = |permission: &str| granted.iter().any(|granted| granted == permission);
    let detail = format!("may {}", granted.join(", "));
    let all_free = config.miners.iter().all(|terms| terms.price.is_zero());
    let stateless = methods.is_none_or(|methods| methods.stateless);
    let write_is_enough = match config.setting.publish_method {
        PublishChoice::Stateless => true,
        PublishChoice::Start => false,
        PublishChoice::Auto => all_free && stateless,
    };
    if may("admin") && may("write") {
        Check::ok(NAME, detail)
    } else if may("write") && write_is_enough {
        Check::ok(NAME, format!("{detail}; enough for ClientStatelessDeal"))
    } else {
        let needed = if may("write") || !write_is_enough { "admin" } else { "write" };
        let call =
            if needed == "admin" { "ClientStartDeal" } else { "ClientStatelessDeal and the list of deals" };
        Check::fail(
            NAME,
            format!("{detail}; {call} needs {needed}"),
            format!("make a token with `lotus auth create-token --perm {needed}`"),
        )
    }
}

fn judge_head(head: &NodeHead, now: Duration, rule: SyncRule) -> Check {
    const NAME: &str = "node sync";
    let fail = |detail: String, hint: &str| match rule {
        SyncRule::Required => Check::fail(NAME, detail, hint),
        SyncRule::NotOnTestNetworks => {
            Check::warn(NAME, detail, "setting.allowUnsyncedNode lets deals be made on this test network")
        }
    };
    let height = head.height;
    let Some(timestamp) = head.time.filter(|time| !time.is_zero()) else {
        return Check::warn(NAME, format!("epoch {height}, without a time"), "is this a Lotus full node?");
    };
    if timestamp > now + HEAD_AGE_WARN {
        let ahead = HumanDuration(timestamp.saturating_sub(now));
        return fail(format!("epoch {height} is {ahead} in the future"), "set this host's clock");
    }
    let age = now.saturating_sub(timestamp);
    let detail = format!("epoch {height}, {} old", HumanDuration(age));
    let hint = "wait for `lotus sync wait`, or set this host's clock";
    match age {
        age if age > HEAD_AGE_MAX => fail(detail, hint),
        age if age > HEAD_AGE_WARN => Check::warn(NAME, detail, hint),
        _ => Check::ok(NAME, detail),
    }
}

async fn wallet(node: &FullNode, config: &Config) -> Vec<Check> {
    const NAME: &str = "wallet";
    let Some(wallet) = &config.setting.wallet else {
        return vec![Check::warn(NAME, "setting.wallet is not set", "makedeals and run need it")];
    };
    let wallet = wallet.to_string();
    let mut checks = vec![match node.wallet_has(&wallet).await {
        Ok(true) => Check::ok(NAME, format!("the node holds the key of {wallet}")),
        Ok(false) => Check::fail(
            NAME,
            format!("the node does not hold the key of {wallet}"),
            "`lotus wallet list` shows those it has; see setting.wallet",
        ),
        Err(error) => Check::lotus(NAME, &error),
    }];
    checks.push(match money(node, &wallet).await {
        Ok(money) => judge_money(&money, config),
        Err(error) => Check::lotus("money", &error),
    });
    checks
}

/// What deals of a wallet are paid with.
struct Money {
    balance: AttoFil,
    escrow: AttoFil,
    locked: AttoFil,
    datacap: Option<u128>,
}

async fn money(node: &FullNode, wallet: &str) -> Result<Money, RpcError> {
    let balance = node.wallet_balance(wallet).await?;
    let market = node.market_balance(wallet).await?;
    let datacap = node.datacap(wallet).await?;
    let (escrow, locked) = (AttoFil::new(market.escrow.0), AttoFil::new(market.locked.0));
    Ok(Money { balance, escrow, locked, datacap })
}

fn judge_money(money: &Money, config: &Config) -> Check {
    const NAME: &str = "money";
    let datacap =
        money.datacap.map_or_else(|| "no datacap".to_owned(), |left| format!("{left} bytes of datacap"));
    let detail = format!(
        "wallet {}, market escrow {} ({} locked), {datacap}",
        money.balance, money.escrow, money.locked
    );
    let costs = config.miners.iter().any(|terms| !terms.price.is_zero());
    if config.setting.verified && money.datacap.is_none() {
        return Check::fail(
            NAME,
            detail,
            "setting.verified spends datacap: ask a notary for some, or set it to false",
        );
    }
    if costs && money.balance.plus(money.escrow).minus(money.locked).is_zero() {
        return Check::fail(NAME, detail, "send FIL to the wallet: the prices of `miners` are not zero");
    }
    Check::ok(NAME, detail)
}

/// Whether the database is the one that this node's deals stand in.
async fn deals(node: &FullNode, config: &Config, store: Option<&Store>) -> Option<Check> {
    const NAME: &str = "deals";
    let store = store?;
    let (_, recorded) = store.document_counts().await.ok()?;
    config.setting.wallet.as_ref()?;
    match node.list_deals(Arc::default()).await {
        Ok(listed) => {
            let listed = u64::try_from(listed.len()).unwrap_or(u64::MAX);
            doctor::deals_are_elsewhere(NAME, store.database_name(), "this node", listed, recorded).or_else(
                || Some(Check::ok(NAME, format!("the node lists {listed}, the database has {recorded}"))),
            )
        }
        // What the token may not is said above.
        Err(RpcError::Permission { .. } | RpcError::Unauthorized { .. }) => None,
        Err(error) => Some(Check::lotus(NAME, &error)),
    }
}

async fn miners(node: &FullNode, config: &Config) -> Vec<Check> {
    // Side by side: an ask is fetched from the provider, which may not answer.
    join_all(config.miners.iter().map(|terms| miner(node, terms.miner.to_string()))).await
}

async fn miner(node: &FullNode, miner: String) -> Check {
    const NAME: &str = "miner";
    let info = match node.miner_info(&miner).await {
        Ok(info) => info,
        Err(error) if is_unknown_actor(&error) => {
            return Check::fail(
                NAME,
                format!("{miner} is no miner of this node's chain"),
                "is the ID right, and the node on the same network? `lotus state miner-info` shows a miner",
            );
        }
        Err(error) => return Check::lotus(NAME, &error),
    };
    let Some(peer_id) = &info.peer_id else {
        return Check::fail(
            NAME,
            format!("{miner} has no peer id on chain, so no node can reach it"),
            "the provider sets it with `lotus-miner actor set-peer-id`",
        );
    };
    let sectors = BinaryBytes(info.sector_size);
    match timeout(ASK_TIMEOUT, node.query_ask(peer_id, &miner)).await {
        Ok(Ok(ask)) => {
            let price = |text: &str| AttoFil::from_lotus(text).unwrap_or_default().to_string();
            Check::ok(
                NAME,
                format!(
                    "{miner}: sectors of {sectors}, takes pieces of {} to {}, asks {} per GiB and epoch ({} verified)",
                    BinaryBytes(ask.min_piece_size),
                    BinaryBytes(ask.max_piece_size),
                    price(&ask.price),
                    price(&ask.verified_price)
                ),
            )
        }
        Ok(Err(error)) => Check::warn(
            NAME,
            format!("{miner}: sectors of {sectors}; it does not tell its ask: {}", ErrorChain(&error)),
            "the provider may be away, or its node not listening; it gets no deals until it answers",
        ),
        Err(_elapsed) => Check::warn(
            NAME,
            format!("{miner}: sectors of {sectors}; no ask within {} s", ASK_TIMEOUT.as_secs()),
            "the provider may be away; it gets no deals until it answers",
        ),
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::doctor::Severity;
    use carferry_core::model::ChainEpoch;

    use super::*;

    fn permissions_of(granted: &[&str], choice: PublishChoice, stateless: bool) -> Severity {
        let granted: Vec<String> = granted.iter().map(|&granted| granted.to_owned()).collect();
        let mut config = Config::default();
        config.setting.publish_method = choice;
        judge_permissions(&granted, &config, Some(PublishCalls { start: true, stateless })).state
    }

    #[test]
    fn tokens_are_judged_by_the_calls_they_are_for() {
        use PublishChoice::{Auto, Start, Stateless};
        let (read, write, admin) =
            (&["read"][..], &["read", "write"][..], &["read", "write", "sign", "admin"][..]);
        for (granted, choice, stateless, state) in [
            (admin, Start, false, Severity::Ok),
            (admin, Auto, true, Severity::Ok),
            (write, Stateless, true, Severity::Ok),
            (write, Auto, true, Severity::Ok),
            (write, Auto, false, Severity::Fail),
            (write, Start, true, Severity::Fail),
            (read, Stateless, true, Severity::Fail),
        ] {
            assert_eq!(
                permissions_of(granted, choice, stateless),
                state,
                "{granted:?} {choice:?} {stateless}"
            );
        }
    }

    #[test]
    fn a_lotus_without_market_is_said_plainly() {
        let neither = PublishCalls { start: false, stateless: false };
        for (version, says) in [
            ("1.27.1+mainnet+git.abc", "removed in v1.27.1"),
            ("1.30.0", "removed in v1.27.1"),
            ("1.27.0+mainnet", "has neither ClientStartDeal"),
            ("something", "has neither ClientStartDeal"),
        ] {
            let check = judge_market(version, neither);
            assert!(
                check.state == Severity::Fail && check.detail.contains(says),
                "{version}: {}",
                check.detail
            );
        }
        assert_eq!(judge_market("1.5.0", PublishCalls { start: true, stateless: false }).state, Severity::Ok);
    }

    #[test]
    fn heads_are_judged_by_their_age() {
        let now = Duration::from_secs(1_000_000);
        for (timestamp, state) in [
            (1_000_000, Severity::Ok),
            (1_000_020, Severity::Ok),
            (999_800, Severity::Ok),
            (999_500, Severity::Warn),
            (990_000, Severity::Fail),
            (1_001_000, Severity::Fail),
            (0, Severity::Warn),
        ] {
            let head = NodeHead { height: ChainEpoch::new(7), time: Some(Duration::from_secs(timestamp)) };
            assert_eq!(judge_head(&head, now, SyncRule::Required).state, state, "{timestamp}");
            let on_test_network = judge_head(&head, now, SyncRule::NotOnTestNetworks).state;
            assert_ne!(on_test_network, Severity::Fail, "{timestamp}");
        }
        let head = NodeHead { height: ChainEpoch::new(7), time: None };
        assert_eq!(judge_head(&head, now, SyncRule::Required).state, Severity::Warn);
    }
}
