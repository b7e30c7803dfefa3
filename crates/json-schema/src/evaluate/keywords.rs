//! Evaluates each keyword against a value.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::TooCostly;
use super::super::schema::{Bound, Count, Keyword, NodeId};
use super::super::values::{self, compare, is_integer};
use super::super::violation::ViolationKind as Kind;
use super::{Evaluated, Evaluation, Site};

impl<'d> Evaluation<'_, 'd, '_> {
    pub(super) fn keyword(
        &mut self,
        keyword: &Keyword,
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        match keyword {
            Keyword::Ref(node) => self.in_place(*node, site, evaluated),
            Keyword::DynamicRef { anchor, fallback } => {
                let scope = &self.scopes[site.scope];
                let bound = scope.iter().find(|(known, _)| known == anchor).map(|(_, node)| *node);
                self.in_place(bound.unwrap_or(*fallback), site, evaluated)
            }
            Keyword::AllOf(nodes) => self.all_of(nodes, site, evaluated),
            Keyword::AnyOf(nodes) => self.any_of(nodes, site, evaluated),
            Keyword::OneOf(nodes) => self.one_of(nodes, site, evaluated),
            Keyword::Not(node) => {
                let is_valid = !self.is_valid(*node, site)?.is_valid;
                Ok(is_valid
                    || self.reject(site.path, Kind::Combination, || {
                        "Must not match the schema in `not`.".into()
                    }))
            }
            Keyword::If { condition, then, otherwise } => {
                let verdict = self.is_valid(*condition, site)?;
                self.merge(&verdict, evaluated)?;
                match if verdict.is_valid { then } else { otherwise } {
                    Some(node) => self.in_place(*node, site, evaluated),
                    None => Ok(true),
                }
            }
            Keyword::Type(types) => Ok(self.is_of_type(types, site)),
            Keyword::Values { keys, listing } => {
                let is_valid = keys.contains(&values::key(site.data, self.work)?);
                Ok(is_valid
                    || self.reject(site.path, Kind::Other, || format!("Must be one of: {listing}.").into()))
            }
            _ => match site.data {
                Value::Number(_) => self.number(keyword, site),
                Value::String(text) => self.text(keyword, text, site),
                Value::Array(items) => self.array(keyword, items, site, evaluated),
                Value::Object(fields) => self.object(keyword, fields, site, evaluated),
                Value::Null | Value::Bool(_) => Ok(true),
            },
        }
    }

    fn all_of(
        &mut self,
        nodes: &[NodeId],
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        let mut all = true;
        for node in nodes {
            all &= self.in_place(*node, site, evaluated)?;
            if !all && site.path.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn any_of(
        &mut self,
        nodes: &[NodeId],
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        let mut any = false;
        for node in nodes {
            let verdict = self.is_valid(*node, site)?;
            self.merge(&verdict, evaluated)?;
            any |= verdict.is_valid;
            // One valid schema is enough. The remaining schemas matter only for the fields and items that
            // they evaluate.
            if any && !self.schema.has_unevaluated {
                break;
            }
        }
        Ok(any
            || self.reject(site.path, Kind::Combination, || {
                "Must fit at least one of the schemas in `anyOf`.".into()
            }))
    }

    fn one_of(
        &mut self,
        nodes: &[NodeId],
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        let mut fitting = 0;
        for node in nodes {
            let verdict = self.is_valid(*node, site)?;
            self.merge(&verdict, evaluated)?;
            fitting += usize::from(verdict.is_valid);
            if fitting > 1 {
                break;
            }
        }
        Ok(fitting == 1
            || self.reject(site.path, Kind::Combination, || {
                "Must fit exactly one of the schemas in `oneOf`.".into()
            }))
    }

    fn is_of_type(&mut self, types: &[&'static str], site: Site<'d, '_>) -> bool {
        let is = |name: &str| match site.data {
            Value::Null => name == "null",
            Value::Bool(_) => name == "boolean",
            Value::Number(number) => name == "number" || name == "integer" && is_integer(number),
            Value::String(_) => name == "string",
            Value::Array(_) => name == "array",
            Value::Object(_) => name == "object",
        };
        let listing = || format!("Must be of type {}.", types.join(" or ")).into();
        types.iter().any(|name| is(name)) || self.reject(site.path, Kind::WrongType, listing)
    }

    fn number(&mut self, keyword: &Keyword, site: Site<'d, '_>) -> Result<bool, TooCostly> {
        let Value::Number(number) = site.data else { return Ok(true) };
        Ok(match keyword {
            Keyword::Bound(bound, limit) => {
                let order = compare(number, limit);
                let (is_valid, words) = match bound {
                    Bound::Maximum => (order.is_le(), "at most"),
                    Bound::ExclusiveMaximum => (order.is_lt(), "less than"),
                    Bound::Minimum => (order.is_ge(), "at least"),
                    Bound::ExclusiveMinimum => (order.is_gt(), "more than"),
                };
                is_valid
                    || self.reject(site.path, Kind::OutOfRange, || format!("Must be {words} {limit}.").into())
            }
            Keyword::MultipleOf(decimal, of) => {
                self.work.charge(values::MULTIPLE_STEPS)?;
                let is_valid =
                    values::Decimal::of(number).is_some_and(|number| number.is_multiple_of(*decimal));
                is_valid
                    || self.reject(site.path, Kind::Other, || format!("Must be a multiple of {of}.").into())
            }
            _ => true,
        })
    }

    fn counted(&mut self, count: Count, has: usize, limit: u64, site: Site<'d, '_>) -> bool {
        let (is_max, unit, kind) = match count {
            Count::MaxLength => (true, "characters", Kind::TooLong),
            Count::MinLength => (false, "characters", Kind::TooShort),
            Count::MaxItems => (true, "items", Kind::TooMany),
            Count::MinItems => (false, "items", Kind::TooFew),
            Count::MaxProperties => (true, "fields", Kind::Other),
            Count::MinProperties => (false, "fields", Kind::Other),
        };
        let has = has as u64;
        let is_valid = if is_max { has <= limit } else { has >= limit };
        let words = if is_max { "at most" } else { "at least" };
        is_valid || self.reject(site.path, kind, || format!("Must have {words} {limit} {unit}.").into())
    }

    fn text(&mut self, keyword: &Keyword, text: &str, site: Site<'d, '_>) -> Result<bool, TooCostly> {
        match keyword {
            Keyword::Count(count @ (Count::MaxLength | Count::MinLength), limit) => {
                self.work.charge_bytes(text.len())?;
                Ok(self.counted(*count, text.chars().count(), *limit, site))
            }
            Keyword::Pattern(pattern, source) => {
                let is_valid = pattern.is_match(text, self.work)?;
                Ok(is_valid
                    || self.reject(site.path, Kind::Other, || {
                        format!("Must match the pattern {source:?}.").into()
                    }))
            }
            _ => Ok(true),
        }
    }

    fn array(
        &mut self,
        keyword: &Keyword,
        items: &'d [Value],
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        match keyword {
            Keyword::Count(count @ (Count::MaxItems | Count::MinItems), limit) => {
                Ok(self.counted(*count, items.len(), *limit, site))
            }
            Keyword::UniqueItems => {
                let mut keys = HashSet::new();
                for item in items {
                    if !keys.insert(values::key(item, self.work)?) {
                        return Ok(
                            self.reject(site.path, Kind::Other, || "Must not hold equal items.".into())
                        );
                    }
                }
                Ok(true)
            }
            Keyword::Items { prefix, rest } => {
                let mut all = true;
                for (n, item) in items.iter().enumerate() {
                    let Some(node) = prefix.get(n).or(rest.as_ref()) else { break };
                    all &= self.item(*node, n, item, site)?;
                    if !all && site.path.is_none() {
                        return Ok(false);
                    }
                    if n < prefix.len() {
                        self.mark_item(n, evaluated)?;
                    }
                }
                evaluated.all_items |= rest.is_some();
                Ok(all)
            }
            Keyword::Contains { schema, min, max } => {
                let mut fitting = 0;
                for (n, item) in items.iter().enumerate() {
                    if self.apply(*schema, item, site.scope, None)?.is_valid {
                        fitting += 1;
                        self.mark_item(n, evaluated)?;
                    }
                }
                let is_valid = fitting >= *min && max.is_none_or(|max| fitting <= max);
                let wanted = || match max {
                    Some(max) => {
                        format!("Must hold {min} to {max} items that fit the schema in `contains`.").into()
                    }
                    None => {
                        format!("Must hold at least {min} items that fit the schema in `contains`.").into()
                    }
                };
                Ok(is_valid || self.reject(site.path, Kind::Combination, wanted))
            }
            Keyword::UnevaluatedItems(node) => {
                let mut all = true;
                for (n, item) in items.iter().enumerate() {
                    self.work.charge(1)?;
                    if !evaluated.all_items && !evaluated.items.contains(&n) {
                        all &= self.item(*node, n, item, site)?;
                    }
                }
                evaluated.all_items = true;
                Ok(all)
            }
            _ => Ok(true),
        }
    }

    fn object(
        &mut self,
        keyword: &Keyword,
        fields: &'d Map<String, Value>,
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        match keyword {
            Keyword::Count(count @ (Count::MaxProperties | Count::MinProperties), limit) => {
                Ok(self.counted(*count, fields.len(), *limit, site))
            }
            Keyword::Required(names) => self.required(names, fields, site),
            Keyword::DependentRequired(dependents) => {
                let mut all = true;
                for (name, names) in dependents {
                    self.work.charge(1)?;
                    all &= !fields.contains_key(name) || self.required(names, fields, site)?;
                }
                Ok(all)
            }
            Keyword::DependentSchemas(schemas) => {
                let mut all = true;
                for (name, node) in schemas {
                    self.work.charge(1)?;
                    all &= !fields.contains_key(name) || self.in_place(*node, site, evaluated)?;
                }
                Ok(all)
            }
            Keyword::PropertyNames(node) => {
                for name in fields.keys() {
                    let value = self.names.get(name.as_str()).expect("all names were collected");
                    if !self.apply(*node, value, site.scope, None)?.is_valid {
                        let detail =
                            || "The name of a field does not fit the schema in `propertyNames`.".into();
                        return Ok(self.reject(site.path, Kind::Combination, detail));
                    }
                }
                Ok(true)
            }
            Keyword::Properties { .. } => self.properties(keyword, fields, site, evaluated),
            Keyword::UnevaluatedProperties(node) => {
                let mut all = true;
                for (name, value) in fields {
                    self.work.charge(1)?;
                    if !evaluated.all_fields && !evaluated.fields.contains(name.as_str()) {
                        all &= self.field(*node, name, value, site)?;
                    }
                }
                evaluated.all_fields = true;
                Ok(all)
            }
            _ => Ok(true),
        }
    }

    fn required(
        &mut self,
        names: &[String],
        fields: &Map<String, Value>,
        site: Site<'d, '_>,
    ) -> Result<bool, TooCostly> {
        self.work.charge(names.len() as u64)?;
        let mut all = true;
        for name in names.iter().filter(|name| !fields.contains_key(*name)) {
            let kind = Kind::MissingField(name.clone());
            all = self.reject(site.path, kind, || format!("The field {name:?} is required.").into());
            if site.path.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn properties(
        &mut self,
        keyword: &Keyword,
        fields: &'d Map<String, Value>,
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        let Keyword::Properties { named, patterns, additional } = keyword else { return Ok(true) };
        let mut all = true;
        for (name, value) in fields {
            self.work.charge(1)?;
            let mut nodes: Vec<_> = named.get(name).copied().into_iter().collect();
            for (pattern, node) in patterns {
                if pattern.is_match(name, self.work)? {
                    nodes.push(*node);
                }
            }
            if nodes.is_empty() {
                nodes.extend(additional);
            }
            if !nodes.is_empty() {
                self.mark_field(name, evaluated)?;
            }
            for node in nodes {
                all &= self.field(node, name, value, site)?;
                if !all && site.path.is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(all)
    }
}
