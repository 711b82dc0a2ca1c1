-- A batch of reads: all of them see the file as it is at the first.
BEGIN
