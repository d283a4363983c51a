module pacer

go 1.21
