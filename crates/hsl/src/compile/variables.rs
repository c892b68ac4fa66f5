//! Where the variables of a function live, and warnings about them.

use super::generate::{Generator, NOTES_MAX, REGISTER_VARIABLES_MAX, Symbol, Var};
use super::scan::Scan;
use crate::ast::{Name, Param};
use crate::diag::{Span, hint};
use crate::program::Reg;
use std::sync::Arc;

impl Generator<'_> {
    /// Gives every variable of the scope a register, cell or slot.
    pub(super) fn place_variables(&mut self, scan: &Scan) {
        for (name, _) in &scan.names {
            if self.function().vars.contains_key(name) {
                continue;
            }
            let global = self.function().main.then(|| self.globals.get(name).copied()).flatten();
            let captured = scan.captured.contains(name);
            let full = self.function().proto.names.len() >= REGISTER_VARIABLES_MAX;
            let var = match global {
                Some(slot) => Var::Global(slot),
                None if self.function().main && full => {
                    let slot = self.new_global(name);
                    self.globals.insert(name.clone(), slot);
                    Var::Global(slot)
                }
                None if captured || full => Var::Cell(self.new_cell(name)),
                None => {
                    let f = self.function_mut();
                    let reg = f.next as Reg;
                    f.next += 1;
                    f.proto.names.push(Arc::from(&**name));
                    Var::Reg(reg)
                }
            };
            self.function_mut().vars.insert(name.clone(), var);
        }
        let f = self.function_mut();
        f.proto.registers = f.proto.registers.max(f.next);
    }

    /// Warnings about the variables of the function whose body is about to be compiled.
    pub(super) fn warn_variables(&mut self, scan: &Scan, params: &[Param]) {
        let main = self.function().main;
        if main && self.compiler.fragment {
            return;
        }
        let mut found = Vec::new();
        for (name, span) in &scan.names {
            let given = self.function().touched.contains(name) || (main && self.globals.contains_key(name));
            if !given && !scan.written.contains(name) {
                if found.len() >= NOTES_MAX {
                    break;
                }
                let hint = hint(name, "$", scan.written.iter().map(|n| &**n));
                found.push((*span, format!("Variable '${name}' is never assigned{hint}")));
            }
            // What functions import, modules export and hosts read is used elsewhere.
            let elsewhere = given || (main && !self.entry) || scan.inner_globals.contains(name);
            if let Some(span) = scan.assigned.get(name)
                && !elsewhere
                && !scan.used.contains(name)
                && !name.starts_with('_')
            {
                found.push((*span, format!("Variable '${name}' is assigned but never used")));
            }
        }
        for param in params {
            let used = scan.used.contains(&param.name) || scan.assigned.contains_key(&param.name);
            if !used && !param.name.starts_with('_') {
                let message =
                    format!("Parameter '${0}' is never used; name it '$_{0}' if that is meant", param.name);
                found.push((param.span, message));
            }
        }
        for (span, message) in found {
            self.warn(span, message);
        }
    }

    /// Warns about a function or class that hides one of the same name from an outer scope or the library.
    pub(super) fn warn_shadowed(&mut self, name: &Name, span: Span) {
        let outer = self.functions.iter().rev().skip(1).find_map(|f| f.symbols.get(name));
        let outer = outer.or_else(|| self.functions.last().and_then(|_| self.module_symbols.get(name)));
        let place = match outer {
            Some(Symbol::Function(_) | Symbol::Class(_)) => "an outer scope",
            Some(_) => return,
            None => {
                let registry = &self.compiler.registry;
                if registry.function(name).is_none() && registry.class(name).is_none() {
                    return;
                }
                "the library"
            }
        };
        self.warn(span, format!("'{name}' shadows the one of {place}"));
    }
}
