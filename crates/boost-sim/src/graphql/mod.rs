//! GraphQL as Boost's web interface uses it: a part of its schema, written by hand.
//!
//! ```text
//! text ─ parse ─► operation ─ validate, with schema ─► checked ─ resolve ─► {"data"} or {"errors"}
//! ```
//!
//! Source: boost v2.5.2 `gql/schema.graphql`, `gql/resolver*.go`, `gql/types`. Not there: subscriptions,
//! fragments, directives, the fields of legacy deals, retrievals, sectors and the index.

mod deal;
mod parse;
pub(crate) mod resolve;
mod schema;
mod selection;
mod tokens;
mod validate;
