from fnlamp.data.idx import read_idx as read_idx
