package bfd

// deadlineQueue is a heap of sessions by the time of their next action.
type deadlineQueue []*runningSession

// Len is part of heap.Interface.
func (q deadlineQueue) Len() int { return len(q) }

// Less is part of heap.Interface.
func (q deadlineQueue) Less(i, j int) bool { return q[i].wakeAt < q[j].wakeAt }

// Swap is part of heap.Interface.
func (q deadlineQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].queueIndex, q[j].queueIndex = i, j
}

// Push is part of heap.Interface.
func (q *deadlineQueue) Push(x any) {
	p := x.(*runningSession)
	p.queueIndex = len(*q)
	*q = append(*q, p)
}

// Pop is part of heap.Interface.
func (q *deadlineQueue) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	p.queueIndex = -1
	return p
}
