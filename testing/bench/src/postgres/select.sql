\set n random(1, 100000)
SELECT outcome FROM picked WHERE id = int8send(:n) || int8send(:n) || int8send(:n) || int8send(:n);
