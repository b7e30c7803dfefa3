//! Compiled schema: a list of nodes with keywords. Nodes refer to each other by index.

use std::collections::{BTreeMap, HashSet};

use serde_json::Number;

use super::document::ResourceId;
use super::pattern::Pattern;
use super::values::Decimal;

/// Maximum number of nested schemas that apply to the same value, including schemas that are referenced.
const MAX_NESTING: usize = 128;

/// Index of a schema in [`Schema::nodes`].
pub type NodeId = usize;

/// Compiled schema, ready for evaluation.
#[derive(Debug)]
pub struct Schema {
    pub nodes: Vec<Node>,
    /// Dynamic anchors of each resource, as index of the anchor name and node. Empty if the document has no
    /// dynamic references.
    pub dynamic_anchors: Vec<Vec<(usize, NodeId)>>,
    /// True if `unevaluatedItems` or `unevaluatedProperties` occurs, so that evaluated items and fields must
    /// be recorded.
    pub has_unevaluated: bool,
    /// True if `propertyNames` occurs, so that field names must be available as values.
    pub has_property_names: bool,
    /// Approximate memory of the compiled schema in bytes.
    pub bytes: usize,
}

/// One compiled schema of the document.
#[derive(Debug)]
pub enum Node {
    /// Schema `true`, which accepts every value, or `false`, which rejects every value.
    Always(bool),
    Keywords {
        resource: ResourceId,
        /// True if references point to the schema, so that it can apply to one value more than once.
        is_shared: bool,
        keywords: Vec<Keyword>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Maximum,
    ExclusiveMaximum,
    Minimum,
    ExclusiveMinimum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    MaxLength,
    MinLength,
    MaxItems,
    MinItems,
    MaxProperties,
    MinProperties,
}

/// Compiled keyword, or several keywords that are evaluated together.
#[derive(Debug)]
pub enum Keyword {
    Ref(NodeId),
    DynamicRef {
        anchor: usize,
        fallback: NodeId,
    },
    Type(Vec<&'static str>),
    /// Allowed values of `enum` or `const`: their comparison keys, and their text for messages.
    Values {
        keys: HashSet<String>,
        listing: String,
    },
    Bound(Bound, Number),
    MultipleOf(Decimal, Number),
    Count(Count, u64),
    Pattern(Pattern, String),
    UniqueItems,
    Required(Vec<String>),
    DependentRequired(Vec<(String, Vec<String>)>),
    PropertyNames(NodeId),
    Properties {
        named: BTreeMap<String, NodeId>,
        patterns: Vec<(Pattern, NodeId)>,
        additional: Option<NodeId>,
    },
    DependentSchemas(Vec<(String, NodeId)>),
    Items {
        prefix: Vec<NodeId>,
        rest: Option<NodeId>,
    },
    Contains {
        schema: NodeId,
        min: u64,
        max: Option<u64>,
    },
    AllOf(Vec<NodeId>),
    AnyOf(Vec<NodeId>),
    OneOf(Vec<NodeId>),
    Not(NodeId),
    If {
        condition: NodeId,
        then: Option<NodeId>,
        otherwise: Option<NodeId>,
    },
    UnevaluatedItems(NodeId),
    UnevaluatedProperties(NodeId),
}

impl Keyword {
    /// Returns the subschemas that the keyword applies to the value itself. Subschemas for fields and items
    /// are excluded.
    fn in_place(&self) -> Vec<NodeId> {
        match self {
            Self::Ref(node) | Self::DynamicRef { fallback: node, .. } | Self::Not(node) => vec![*node],
            Self::AllOf(nodes) | Self::AnyOf(nodes) | Self::OneOf(nodes) => nodes.clone(),
            Self::If { condition, then, otherwise } => {
                [Some(*condition), *then, *otherwise].into_iter().flatten().collect()
            }
            Self::DependentSchemas(schemas) => schemas.iter().map(|(_, node)| *node).collect(),
            _ => Vec::new(),
        }
    }
}

/// Checks how deeply schemas nest that apply to one value. Cycles are ignored here, because the evaluation
/// ends at them.
///
/// # Errors
/// Returns a sentence if more than [`MAX_NESTING`] schemas are nested.
pub fn check_nesting(nodes: &[Node]) -> Result<(), String> {
    let children = |id: NodeId| match &nodes[id] {
        Node::Always(_) => Vec::new(),
        Node::Keywords { keywords, .. } => keywords.iter().flat_map(Keyword::in_place).collect(),
    };
    // Depth of each schema. 0 while the depth is being computed.
    let mut depths: Vec<Option<usize>> = vec![None; nodes.len()];
    for start in 0..nodes.len() {
        if depths[start].is_some() {
            continue;
        }
        depths[start] = Some(0);
        let mut path = vec![(start, children(start), 0, 0)];
        while let Some((id, nested, next, deepest)) = path.last_mut() {
            if let Some(child) = nested.get(*next).copied() {
                *next += 1;
                match depths[child] {
                    Some(depth) => *deepest = (*deepest).max(depth),
                    None => {
                        depths[child] = Some(0);
                        path.push((child, children(child), 0, 0));
                    }
                }
                continue;
            }
            let depth = *deepest + 1;
            if depth > MAX_NESTING {
                return Err(format!(
                    "at most {MAX_NESTING} schemas can apply to one value within each other."
                ));
            }
            depths[*id] = Some(depth);
            path.pop();
            if let Some((_, _, _, deepest)) = path.last_mut() {
                *deepest = (*deepest).max(depth);
            }
        }
    }
    Ok(())
}

/// Returns true if a schema refers to itself for the same value, directly or through other schemas.
#[cfg(test)]
pub fn has_reference_cycle(schema: &Schema) -> bool {
    let children = |id: NodeId| match &schema.nodes[id] {
        Node::Always(_) => Vec::new(),
        Node::Keywords { keywords, .. } => keywords.iter().flat_map(Keyword::in_place).collect(),
    };
    (0..schema.nodes.len()).any(|start| {
        let (mut waiting, mut seen) = (children(start), HashSet::new());
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                waiting.extend(children(id));
            }
        }
        seen.contains(&start)
    })
}
