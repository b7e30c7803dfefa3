//! Evaluates a value against a compiled schema. The result of a referenced schema for a value is computed
//! only once. Every step is charged to a [`Work`], and the nesting depth is bounded.

mod keywords;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use super::schema::{Keyword, Node, NodeId, Schema};
use super::violation::{Violation, ViolationKind};
use super::{TooCostly, Work};

/// Steps charged for each stored result. Results are stored until the evaluation ends, so this bounds the
/// memory.
const ENTRY_STEPS: u64 = 16;

/// Limits of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum depth of nested schemas. Each level uses a few kilobytes of stack.
    pub depth: usize,
    /// Maximum number of reported violations.
    pub violations: usize,
}

/// Validates `data` and returns at most `limits.violations` violations. The list is empty if the value is
/// valid.
///
/// # Errors
/// Returns [`TooCostly`] if the budget `work` is used up or the depth exceeds its limit.
pub fn validate(
    schema: &Schema,
    data: &Value,
    limits: Limits,
    work: &mut Work,
) -> Result<Vec<Violation>, TooCostly> {
    let mut names = HashMap::new();
    if schema.has_property_names {
        collect_names(data, &mut names);
    }
    let mut evaluation = Evaluation {
        schema,
        names: &names,
        work,
        known: HashMap::new(),
        scopes: vec![Vec::new()],
        entered: HashMap::new(),
        depth: 0,
        limits,
        violations: Vec::new(),
        explained: HashSet::new(),
    };
    let verdict = evaluation.apply(0, data, 0, None)?;
    Ok(if verdict.is_valid { Vec::new() } else { evaluation.explain(data) })
}

/// Collects the names of all fields as JSON strings, so that `propertyNames` can evaluate them as values.
fn collect_names<'d>(data: &'d Value, names: &mut HashMap<&'d str, Value>) {
    match data {
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        Value::Object(fields) => {
            for (name, value) in fields {
                names.entry(name).or_insert_with(|| Value::String(name.clone()));
                collect_names(value, names);
            }
        }
        _ => {}
    }
}

/// Index of a dynamic scope, which maps dynamic anchors to schemas.
type Scope = usize;

/// Fields and items that a schema has evaluated.
#[derive(Clone, Debug, Default)]
struct Evaluated<'d> {
    all_fields: bool,
    fields: BTreeSet<&'d str>,
    all_items: bool,
    items: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct EvaluationResult<'d> {
    is_valid: bool,
    /// Fields and items that the schema has evaluated; `None` if the caller does not need them.
    evaluated: Option<Rc<Evaluated<'d>>>,
}

/// Path to a value, for the messages of violations.
enum Path<'p> {
    Root,
    Field(&'p Self, &'p str),
    Item(&'p Self, usize),
}

impl Path<'_> {
    fn write(&self, pointer: &mut String) {
        match self {
            Self::Root => {}
            Self::Field(parent, name) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
            }
            Self::Item(parent, n) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&n.to_string());
            }
        }
    }
}

struct Evaluation<'s, 'd, 'w> {
    schema: &'s Schema,
    names: &'d HashMap<&'d str, Value>,
    work: &'w mut Work,
    /// Results of schemas that are referenced more than once, by schema, address of the value, and scope.
    /// `None` while a result is being computed.
    known: HashMap<(NodeId, usize, Scope), Option<EvaluationResult<'d>>>,
    scopes: Vec<Vec<(usize, NodeId)>>,
    entered: HashMap<(Scope, usize), Scope>,
    depth: usize,
    limits: Limits,
    violations: Vec<Violation>,
    /// Schemas and values whose violations have already been reported.
    explained: HashSet<(NodeId, usize, Scope)>,
}

/// Value to which a keyword is applied, with the dynamic scope. `path` is `None` if violations are not
/// reported.
#[derive(Clone, Copy)]
struct Site<'d, 'p> {
    data: &'d Value,
    scope: Scope,
    path: Option<&'p Path<'p>>,
}

impl<'d> Evaluation<'_, 'd, '_> {
    /// Evaluates an invalid value again and collects its violations.
    fn explain(&mut self, data: &'d Value) -> Vec<Violation> {
        let explained = self.apply(0, data, 0, Some(&Path::Root));
        if self.violations.is_empty() {
            debug_assert!(explained.is_err(), "an invalid value has a violation");
            let detail = || "The value does not match its schema.".into();
            self.reject(Some(&Path::Root), ViolationKind::Other, detail);
        }
        std::mem::take(&mut self.violations)
    }

    /// Adds a violation if `path` is set. Always returns false, because the value is invalid.
    fn reject(
        &mut self,
        path: Option<&Path<'_>>,
        kind: ViolationKind,
        detail: impl FnOnce() -> Cow<'static, str>,
    ) -> bool {
        if let Some(path) = path
            && self.violations.len() < self.limits.violations
        {
            let mut pointer = String::new();
            path.write(&mut pointer);
            self.violations.push(Violation { pointer, kind, detail: detail() });
        }
        false
    }

    /// Applies a schema to a value. Reports violations if `path` is set.
    fn apply(
        &mut self,
        id: NodeId,
        data: &'d Value,
        scope: Scope,
        path: Option<&Path<'_>>,
    ) -> Result<EvaluationResult<'d>, TooCostly> {
        self.work.charge(1)?;
        let schema = self.schema;
        let (resource, is_shared, keywords) = match &schema.nodes[id] {
            Node::Always(is_valid) => {
                if !is_valid {
                    let is_field = matches!(path, Some(Path::Field(..)));
                    let kind = if is_field { ViolationKind::UnknownField } else { ViolationKind::Other };
                    self.reject(path, kind, || "This is not allowed here.".into());
                }
                return Ok(EvaluationResult { is_valid: *is_valid, evaluated: None });
            }
            Node::Keywords { resource, is_shared, keywords } => (*resource, *is_shared, keywords),
        };
        let scope = self.enter(scope, resource)?;
        let key = (id, std::ptr::from_ref(data).addr(), scope);
        let remembers = is_shared && path.is_none();
        if remembers {
            match self.known.get(&key) {
                Some(Some(known)) => return Ok(known.clone()),
                // A schema that refers to itself for the same value adds no constraint.
                Some(None) => return Ok(EvaluationResult { is_valid: true, evaluated: None }),
                None => {
                    self.work.charge(ENTRY_STEPS)?;
                    self.known.insert(key, None);
                }
            }
        }
        if self.depth >= self.limits.depth {
            return Err(TooCostly);
        }
        self.depth += 1;
        let verdict = self.evaluate(keywords, Site { data, scope, path });
        self.depth -= 1;
        let verdict = verdict?;
        if remembers {
            self.known.insert(key, Some(verdict.clone()));
        }
        Ok(verdict)
    }

    fn evaluate(
        &mut self,
        keywords: &[Keyword],
        site: Site<'d, '_>,
    ) -> Result<EvaluationResult<'d>, TooCostly> {
        let mut evaluated = Evaluated::default();
        let mut is_valid = true;
        for keyword in keywords {
            self.work.charge(1)?;
            if !self.keyword(keyword, site, &mut evaluated)? {
                is_valid = false;
                if site.path.is_none() || self.violations.len() >= self.limits.violations {
                    break;
                }
            }
        }
        let evaluated = (is_valid && self.schema.has_unevaluated).then(|| Rc::new(evaluated));
        Ok(EvaluationResult { is_valid, evaluated })
    }

    /// Returns the dynamic scope inside `resource`. For each dynamic anchor, the outermost schema takes
    /// precedence.
    fn enter(&mut self, scope: Scope, resource: usize) -> Result<Scope, TooCostly> {
        let Some(anchors) = self.schema.dynamic_anchors.get(resource) else { return Ok(scope) };
        if anchors.is_empty() {
            return Ok(scope);
        }
        if let Some(known) = self.entered.get(&(scope, resource)) {
            return Ok(*known);
        }
        let mut bound = self.scopes[scope].clone();
        self.work.charge(ENTRY_STEPS * (1 + bound.len() + anchors.len()) as u64)?;
        for (anchor, node) in anchors {
            if bound.iter().all(|(known, _)| known != anchor) {
                bound.push((*anchor, *node));
            }
        }
        bound.sort_unstable();
        self.work.charge(self.scopes.len() as u64)?;
        let inside = self.scopes.iter().position(|known| *known == bound).unwrap_or_else(|| {
            self.scopes.push(bound);
            self.scopes.len() - 1
        });
        self.entered.insert((scope, resource), inside);
        Ok(inside)
    }

    /// Applies a subschema to the same value, and adds the fields and items that the subschema has evaluated
    /// to `evaluated`.
    fn in_place(
        &mut self,
        id: NodeId,
        site: Site<'d, '_>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<bool, TooCostly> {
        let verdict = self.apply_and_report(id, site.data, site.scope, site.path)?;
        self.merge(&verdict, evaluated)?;
        Ok(verdict.is_valid)
    }

    fn merge(
        &mut self,
        verdict: &EvaluationResult<'d>,
        evaluated: &mut Evaluated<'d>,
    ) -> Result<(), TooCostly> {
        let Some(more) = verdict.evaluated.as_deref().filter(|_| verdict.is_valid) else { return Ok(()) };
        self.work.charge(ENTRY_STEPS * (more.fields.len() + more.items.len()) as u64)?;
        evaluated.all_fields |= more.all_fields;
        evaluated.all_items |= more.all_items;
        evaluated.fields.extend(&more.fields);
        evaluated.items.extend(&more.items);
        Ok(())
    }

    /// Applies a schema to a value. If the value is invalid and `path` is set, applies the schema again to
    /// report the violations.
    fn apply_and_report(
        &mut self,
        id: NodeId,
        data: &'d Value,
        scope: Scope,
        path: Option<&Path<'_>>,
    ) -> Result<EvaluationResult<'d>, TooCostly> {
        let verdict = self.apply(id, data, scope, None)?;
        if verdict.is_valid || path.is_none() {
            return Ok(verdict);
        }
        self.work.charge(ENTRY_STEPS)?;
        let is_new = self.explained.insert((id, std::ptr::from_ref(data).addr(), scope));
        if is_new { self.apply(id, data, scope, path) } else { Ok(verdict) }
    }

    fn is_valid(&mut self, id: NodeId, site: Site<'d, '_>) -> Result<EvaluationResult<'d>, TooCostly> {
        self.apply(id, site.data, site.scope, None)
    }

    fn field(
        &mut self,
        id: NodeId,
        name: &str,
        value: &'d Value,
        site: Site<'d, '_>,
    ) -> Result<bool, TooCostly> {
        let path = site.path.map(|path| Path::Field(path, name));
        Ok(self.apply_and_report(id, value, site.scope, path.as_ref())?.is_valid)
    }

    fn item(
        &mut self,
        id: NodeId,
        n: usize,
        value: &'d Value,
        site: Site<'d, '_>,
    ) -> Result<bool, TooCostly> {
        let path = site.path.map(|path| Path::Item(path, n));
        Ok(self.apply_and_report(id, value, site.scope, path.as_ref())?.is_valid)
    }

    fn mark_field(&mut self, name: &'d str, evaluated: &mut Evaluated<'d>) -> Result<(), TooCostly> {
        if self.schema.has_unevaluated && !evaluated.all_fields {
            self.work.charge(ENTRY_STEPS)?;
            evaluated.fields.insert(name);
        }
        Ok(())
    }

    fn mark_item(&mut self, n: usize, evaluated: &mut Evaluated<'d>) -> Result<(), TooCostly> {
        if self.schema.has_unevaluated && !evaluated.all_items {
            self.work.charge(ENTRY_STEPS)?;
            evaluated.items.insert(n);
        }
        Ok(())
    }
}
