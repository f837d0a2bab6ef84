"""The fast reader: lines that differ in digits alone are read together, column by column."""
