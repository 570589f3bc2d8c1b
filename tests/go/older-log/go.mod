module older-log

go 1.26.0
