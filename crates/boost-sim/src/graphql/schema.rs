//! The part of Boost's GraphQL schema that the simulator has.
//!
//! Source: boost v2.5.2 and v1.5.0 `gql/schema.graphql`.

use crate::version::BoostVersion;

/// Fields of a type, each with its type.
type Fields = &'static [(&'static str, &'static str)];

const TYPES: &[(&str, Fields)] = &[
    (
        "RootQuery",
        &[
            ("epoch", "EpochInfo!"),
            ("minerAddress", "MinerAddress!"),
            ("deal", "Deal"),
            ("deals", "DealList!"),
            ("dealsCount", "Int!"),
            ("storage", "Storage!"),
            ("funds", "Funds!"),
            ("fundsLogs", "FundsLogList!"),
            ("dealPublish", "DealPublish!"),
            ("storageAsk", "StorageAsk!"),
            ("libp2pAddrInfo", "Libp2pAddrInfo!"),
        ],
    ),
    (
        "RootMutation",
        &[
            ("dealCancel", "ID!"),
            ("dealRetryPaused", "ID!"),
            ("dealFailPaused", "ID!"),
            ("dealPublishNow", "Boolean!"),
        ],
    ),
    ("EpochInfo", &[("Epoch", "Uint64!"), ("SecondsPerEpoch", "Int!")]),
    ("MinerAddress", &[("MinerID", "String!"), ("IsCurio", "Boolean!")]),
    (
        "TransferParams",
        &[("Type", "String!"), ("Size", "Uint64!"), ("Params", "String!"), ("ClientID", "String!")],
    ),
    ("TransferPoint", &[("At", "Time!"), ("Bytes", "Uint64!")]),
    ("Sector", &[("ID", "Uint64!"), ("Offset", "Uint64!"), ("Length", "Uint64!")]),
    (
        "Deal",
        &[
            ("ID", "ID!"),
            ("ClientAddress", "String!"),
            ("ProviderAddress", "String!"),
            ("CreatedAt", "Time!"),
            ("PieceCid", "String!"),
            ("PieceSize", "Uint64!"),
            ("IsVerified", "Boolean!"),
            ("AnnounceToIPNI", "Boolean!"),
            ("KeepUnsealedCopy", "Boolean!"),
            ("ProposalLabel", "String!"),
            ("ProviderCollateral", "Uint64!"),
            ("ClientCollateral", "Uint64!"),
            ("StoragePricePerEpoch", "Uint64!"),
            ("StartEpoch", "Uint64!"),
            ("EndEpoch", "Uint64!"),
            ("ClientPeerID", "String!"),
            ("DealDataRoot", "String!"),
            ("SignedProposalCid", "String!"),
            ("InboundFilePath", "String!"),
            ("ChainDealID", "Uint64!"),
            ("PublishCid", "String!"),
            ("IsOffline", "Boolean!"),
            ("CleanupData", "Boolean!"),
            ("Transfer", "TransferParams!"),
            ("TransferSamples", "[TransferPoint]!"),
            ("IsTransferStalled", "Boolean!"),
            ("Checkpoint", "Checkpoint!"),
            ("CheckpointAt", "Time!"),
            ("Err", "String!"),
            ("Retry", "String!"),
            ("Transferred", "Uint64!"),
            ("Sector", "Sector!"),
            ("Message", "String!"),
            ("Logs", "[DealLog]!"),
            ("SealingState", "String!"),
        ],
    ),
    (
        "DealLog",
        &[
            ("DealUUID", "ID!"),
            ("CreatedAt", "Time!"),
            ("LogLevel", "String!"),
            ("LogMsg", "String!"),
            ("LogParams", "String!"),
            ("Subsystem", "String!"),
        ],
    ),
    ("DealList", &[("totalCount", "Int!"), ("deals", "[Deal]!"), ("more", "Boolean!")]),
    (
        "Storage",
        &[
            ("Staged", "Uint64!"),
            ("Transferred", "Uint64!"),
            ("Pending", "Uint64!"),
            ("Free", "Uint64!"),
            ("MountPoint", "String!"),
        ],
    ),
    ("FundsEscrow", &[("Available", "BigInt!"), ("Locked", "BigInt!"), ("Tagged", "BigInt!")]),
    ("FundsWallet", &[("Address", "String!"), ("Balance", "BigInt!"), ("Tagged", "BigInt!")]),
    ("Funds", &[("Escrow", "FundsEscrow!"), ("Collateral", "FundsWallet!"), ("PubMsg", "FundsWallet!")]),
    ("FundsLog", &[("DealUUID", "ID!"), ("CreatedAt", "Time!"), ("Amount", "BigInt!"), ("Text", "String!")]),
    ("FundsLogList", &[("totalCount", "Int!"), ("logs", "[FundsLog]!"), ("more", "Boolean!")]),
    (
        "DealPublish",
        &[
            ("ManualPSD", "Boolean!"),
            ("Period", "Int!"),
            ("Start", "Time!"),
            ("MaxDealsPerMsg", "Int!"),
            ("Deals", "[DealBasic]!"),
        ],
    ),
    (
        "DealBasic",
        &[
            ("ID", "ID!"),
            ("IsLegacy", "Boolean!"),
            ("ClientAddress", "String!"),
            ("ProviderAddress", "String!"),
            ("CreatedAt", "Time!"),
            ("PieceCid", "String!"),
            ("PieceSize", "Uint64!"),
            ("ProviderCollateral", "Uint64!"),
            ("StartEpoch", "Uint64!"),
            ("EndEpoch", "Uint64!"),
            ("ClientPeerID", "String!"),
            ("DealDataRoot", "String!"),
            ("PublishCid", "String!"),
            ("Transfer", "TransferParams!"),
            ("Message", "String!"),
            ("IsDirect", "Boolean!"),
        ],
    ),
    (
        "StorageAsk",
        &[
            ("Price", "BigInt!"),
            ("VerifiedPrice", "BigInt!"),
            ("MinPieceSize", "Uint64!"),
            ("MaxPieceSize", "Uint64!"),
            ("ExpiryEpoch", "Uint64!"),
            ("ExpiryTime", "Time!"),
        ],
    ),
    ("Libp2pAddrInfo", &[("Addresses", "[String]!"), ("PeerID", "String!"), ("Protocols", "[String]!")]),
];

/// Arguments of fields. No other field takes any.
const ARGUMENTS: &[(&str, Fields)] = &[
    ("deal", &[("id", "ID!")]),
    (
        "deals",
        &[
            ("query", "String"),
            ("filter", "DealFilter"),
            ("cursor", "ID"),
            ("offset", "Int"),
            ("limit", "Int"),
        ],
    ),
    ("fundsLogs", &[("cursor", "BigInt"), ("offset", "Int"), ("limit", "Int")]),
    ("dealCancel", &[("id", "ID!")]),
    ("dealRetryPaused", &[("id", "ID!")]),
    ("dealFailPaused", &[("id", "ID!")]),
];

/// Fields of input objects.
const INPUTS: &[(&str, Fields)] = &[(
    "DealFilter",
    &[
        ("Checkpoint", "Checkpoint"),
        ("IsOffline", "Boolean"),
        ("TransferType", "String"),
        ("IsVerified", "Boolean"),
    ],
)];

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(key, _value)| *key == name).map(|(_key, value)| *value)
}

/// The name of a type without its marks for lists and for values that are never null.
pub(super) fn bare(type_name: &str) -> &str {
    type_name.trim_matches(['[', ']', '!'])
}

/// Whether a type has fields.
pub(super) fn is_object(type_name: &str) -> bool {
    find(TYPES, bare(type_name)).is_some()
}

/// The type of a field in a release.
pub(super) fn field_type(owner: &str, field: &str, version: BoostVersion) -> Option<&'static str> {
    let later = match (owner, field) {
        ("Deal", "AnnounceToIPNI" | "KeepUnsealedCopy") => BoostVersion::V1_6_4,
        ("Deal", "CleanupData") => BoostVersion::V1_7_0,
        ("Deal", "SealingState") | ("DealBasic", "IsDirect") | ("RootQuery", "storageAsk") => {
            BoostVersion::V2_5_2
        }
        _ => BoostVersion::V1_5_0,
    };
    if version < later {
        return None;
    }
    if (owner, field) == ("RootQuery", "minerAddress") && version < BoostVersion::V2_5_2 {
        return Some("String!");
    }
    find(find(TYPES, owner)?, field)
}

/// The arguments of a field in a release.
pub(super) fn arguments(
    field: &str,
    version: BoostVersion,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let arguments = find(ARGUMENTS, field).unwrap_or_default();
    arguments.iter().copied().filter(move |(name, _type)| *name != "filter" || version.has_deal_filter())
}

/// The fields of an input object.
pub(super) fn input(type_name: &str) -> Option<Fields> {
    find(INPUTS, type_name)
}
