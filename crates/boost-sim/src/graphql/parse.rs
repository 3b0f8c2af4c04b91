//! Parses GraphQL: operations, fields with arguments, values.
//!
//! Source: the GraphQL specification of October 2021. Fragments and directives are refused.

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::graphql::tokens::{Place, RequestError, Token, tokens, unexpected};

/// Kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Mutation,
    Subscription,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) name: Option<String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) fields: Vec<Field>,
}

/// A declared variable and its default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) default: Option<Literal>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    /// Its name in the answer.
    pub(crate) alias: String,
    pub(crate) name: String,
    pub(crate) arguments: Vec<(String, Literal)>,
    pub(crate) fields: Vec<Field>,
    pub(super) place: Place,
}

/// A value in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Variable(String),
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Enum(String),
    List(Vec<Literal>),
    Object(Vec<(String, Literal)>),
}

impl fmt::Display for Literal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(formatter, "${name}"),
            Self::Null => formatter.write_str("null"),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Number(value) => write!(formatter, "{value}"),
            Self::Text(value) => write!(formatter, "{value:?}"),
            Self::Enum(value) => formatter.write_str(value),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(formatter, "[{}]", items.join(", "))
            }
            Self::Object(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                write!(formatter, "{{{}}}", fields.join(", "))
            }
        }
    }
}

impl Literal {
    /// The value with variables filled in; `None` for a variable that is not given.
    pub(crate) fn value(&self, variables: &Map<String, Value>) -> Option<Value> {
        Some(match self {
            Self::Variable(name) => return variables.get(name).cloned(),
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::Text(value) | Self::Enum(value) => Value::String(value.clone()),
            Self::List(items) => items.iter().filter_map(|item| item.value(variables)).collect(),
            Self::Object(fields) => {
                let given = |(name, value): &(String, Literal)| Some((name.clone(), value.value(variables)?));
                Value::Object(fields.iter().filter_map(given).collect())
            }
        })
    }
}

/// Parses all operations of a request.
pub(crate) fn parse(text: &str) -> Result<Vec<Operation>, RequestError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let mut operations = Vec::new();
    while parser.at < parser.tokens.len() {
        operations.push(parser.operation()?);
    }
    Ok(operations)
}

struct Parser {
    tokens: Vec<(Token, Place)>,
    at: usize,
}

type Parsed<T> = Result<T, RequestError>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _place)| token)
    }

    fn place(&self) -> Place {
        let token = self.tokens.get(self.at).or_else(|| self.tokens.last());
        token.map_or(Place { line: 1, column: 1 }, |(_token, place)| *place)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    fn take_sign(&mut self, sign: char) -> bool {
        let is_there = self.is_sign(sign);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect_sign(&mut self, sign: char) -> Parsed<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.surprise(&format!("\"{sign}\""))) }
    }

    fn surprise(&self, wanted: &str) -> RequestError {
        let found = self.peek().map_or_else(|| "EOF".to_owned(), ToString::to_string);
        RequestError::at(self.place(), format!("syntax error: unexpected {found}, expecting {wanted}"))
    }

    fn name(&mut self) -> Parsed<String> {
        let Some(Token::Name(name)) = self.peek() else { return Err(self.surprise("Ident")) };
        let name = name.clone();
        self.at += 1;
        Ok(name)
    }

    fn operation(&mut self) -> Parsed<Operation> {
        if self.is_sign('{') {
            let fields = self.selection()?;
            return Ok(Operation { kind: Kind::Query, name: None, variables: Vec::new(), fields });
        }
        let place = self.place();
        let kind = match self.name()?.as_str() {
            "query" => Kind::Query,
            "mutation" => Kind::Mutation,
            "subscription" => Kind::Subscription,
            "fragment" => return Err(RequestError::at(place, "boost-sim has no fragments")),
            other => return Err(unexpected(place, other)),
        };
        let name = if matches!(self.peek(), Some(Token::Name(_))) { Some(self.name()?) } else { None };
        let mut variables = Vec::new();
        if self.take_sign('(') {
            while !self.take_sign(')') {
                self.expect_sign('$')?;
                let name = self.name()?;
                self.expect_sign(':')?;
                self.skip_type()?;
                let default = if self.take_sign('=') { Some(self.value()?) } else { None };
                variables.push(Variable { name, default });
            }
        }
        Ok(Operation { kind, name, variables, fields: self.selection()? })
    }

    fn skip_type(&mut self) -> Parsed<()> {
        if self.take_sign('[') {
            self.skip_type()?;
            self.expect_sign(']')?;
        } else {
            self.name()?;
        }
        self.take_sign('!');
        Ok(())
    }

    fn selection(&mut self) -> Parsed<Vec<Field>> {
        self.expect_sign('{')?;
        let mut fields = Vec::new();
        while !self.take_sign('}') {
            fields.push(self.field()?);
        }
        Ok(fields)
    }

    fn field(&mut self) -> Parsed<Field> {
        let place = self.place();
        if self.peek() == Some(&Token::Spread) || self.is_sign('@') {
            return Err(RequestError::at(place, "boost-sim has no fragments and no directives"));
        }
        let alias = self.name()?;
        let name = if self.take_sign(':') { self.name()? } else { alias.clone() };
        let mut arguments = Vec::new();
        if self.take_sign('(') {
            while !self.take_sign(')') {
                let name = self.name()?;
                self.expect_sign(':')?;
                arguments.push((name, self.value()?));
            }
        }
        let fields = if self.is_sign('{') { self.selection()? } else { Vec::new() };
        Ok(Field { alias, name, arguments, fields, place })
    }

    fn value(&mut self) -> Parsed<Literal> {
        let Some(token) = self.peek().cloned() else { return Err(self.surprise("a value")) };
        self.at += 1;
        Ok(match token {
            Token::Sign('$') => Literal::Variable(self.name()?),
            Token::Number(number) => Literal::Number(number),
            Token::Text(text) => Literal::Text(text),
            Token::Name(name) => match name.as_str() {
                "null" => Literal::Null,
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                _ => Literal::Enum(name),
            },
            Token::Sign('[') => {
                let mut items = Vec::new();
                while !self.take_sign(']') {
                    items.push(self.value()?);
                }
                Literal::List(items)
            }
            Token::Sign('{') => {
                let mut fields = Vec::new();
                while !self.take_sign('}') {
                    let name = self.name()?;
                    self.expect_sign(':')?;
                    fields.push((name, self.value()?));
                }
                Literal::Object(fields)
            }
            Token::Sign(_) | Token::Spread => {
                self.at -= 1;
                return Err(self.surprise("a value"));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_have_variables_aliases_and_arguments() {
        let text = r#"
            query Waiting($limit: Int = 10, $ids: [ID!]!) { # a comment
                list: deals(query: "a\"b", filter: {Checkpoint: Accepted, IsOffline: true}, limit: $limit, offset: -1) {
                    totalCount deals { ID }
                }
            }"#;
        let operations = parse(text).unwrap();
        assert_eq!(operations.len(), 1);
        let operation = &operations[0];
        assert_eq!((operation.kind, operation.name.as_deref()), (Kind::Query, Some("Waiting")));
        assert_eq!(operation.variables[0].default, Some(Literal::Number(10.into())));
        let field = &operation.fields[0];
        assert_eq!((field.alias.as_str(), field.name.as_str(), field.place.line), ("list", "deals", 3));
        let variables = json!({ "limit": 5 });
        let variables = variables.as_object().unwrap();
        let values: Vec<_> =
            field.arguments.iter().map(|(_name, value)| value.value(variables).unwrap()).collect();
        let filter = json!({ "Checkpoint": "Accepted", "IsOffline": true });
        assert_eq!(values, [json!("a\"b"), filter, json!(5), json!(-1)]);
        assert_eq!(field.fields[1].fields[0].name, "ID");
    }

    #[test]
    fn broken_texts_name_what_is_wrong() {
        for (text, message) in [
            ("{ deals", "syntax error: unexpected EOF, expecting Ident"),
            ("{ deals(limit 1) }", "syntax error: unexpected Int \"1\", expecting \":\""),
            ("{ a \"b }", "syntax error: literal not terminated"),
            ("{ ...Deal }", "boost-sim has no fragments and no directives"),
            ("{ a ; }", "syntax error: unexpected \";\""),
        ] {
            assert_eq!(parse(text).unwrap_err().message, message, "{text}");
        }
    }
}
