package bfd

// queue is a heap of paths by the time of their next action.
type queue []*path

// Len is part of heap.Interface.
func (q queue) Len() int { return len(q) }

// Less is part of heap.Interface.
func (q queue) Less(i, j int) bool { return q[i].wakeAt < q[j].wakeAt }

// Swap is part of heap.Interface.
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push is part of heap.Interface.
func (q *queue) Push(x any) {
	p := x.(*path)
	p.place = len(*q)
	*q = append(*q, p)
}

// Pop is part of heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	p.place = -1
	return p
}
