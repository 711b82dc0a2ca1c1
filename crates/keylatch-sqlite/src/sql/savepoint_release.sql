-- The end of a unit: what it wrote, if it was not taken back, is part of the batch.
RELEASE keylatch_unit
