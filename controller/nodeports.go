package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// nodePortManager is the field manager of the node ports that the controller has
// allocated, so that it releases those and never the user's.
const nodePortManager = v1alpha1.FieldManager + "-nodeport"

// nodePortRange keeps what the API server's refusals reveal about its range of node
// ports. Its methods may be called concurrently.
type nodePortRange struct {
	mu      sync.Mutex
	inRange plan.PortRange
	refused map[int32]time.Time
}

// refusedPortTTL is the time after which a refused port is tried again: every three
// minutes the API server releases ports that no Service has any more.
const refusedPortTTL = 5 * time.Minute

// current returns the range and the refused ports, as far as they are known.
func (n *nodePortRange) current() plan.PortRange {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.inRange
	r.Taken = make(map[int32]bool, len(n.refused))
	for port, at := range n.refused {
		if time.Since(at) > refusedPortTTL {
			delete(n.refused, port)
			continue
		}
		r.Taken[port] = true
	}
	return r
}

// Only these texts of the API server contain its range and the allocated port.
var (
	allocatedPortMessage = regexp.MustCompile(`Invalid value: (\d+): provided port is already allocated`)
	portRangeMessage     = regexp.MustCompile(`not in the valid range\. The range of valid ports is (\d+-\d+)`)
)

// learnFromRefusal records what the refusal reveals, and reports whether it leads to
// another choice of ports.
func (n *nodePortRange) learnFromRefusal(refusal string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := portRangeMessage.FindStringSubmatch(refusal); m != nil {
		r, err := plan.ParsePortRange(m[1])
		if err != nil || r.Low == n.inRange.Low && r.High == n.inRange.High {
			return false
		}
		n.inRange = r
		return true
	}
	found := allocatedPortMessage.FindAllStringSubmatch(refusal, -1)
	for _, m := range found {
		port, err := strconv.ParseInt(m[1], 10, 32)
		if err != nil {
			return false
		}
		if n.refused == nil {
			n.refused = map[int32]time.Time{}
		}
		n.refused[int32(port)] = time.Now()
	}
	return len(found) > 0
}

// writeNodePorts allocates the node ports of the plan, or releases all that were
// allocated. Server-side apply keeps both the user's node ports and these ones.
func (c *Controller) writeNodePorts(ctx context.Context, svc *corev1.Service, p plan.ServicePlan) (changed bool, err error) {
	metadata, spec := objectIdentity(svc), map[string]any{}
	if len(p.NodePorts) > 0 {
		ports, err := c.appliedNodePorts(ctx, svc)
		if err != nil {
			return false, err
		}
		for _, n := range p.NodePorts {
			ports = append(ports, map[string]any{"port": n.Port, "protocol": n.Protocol, "nodePort": n.NodePort})
		}
		spec["ports"] = ports
	}
	body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
	if err != nil {
		return false, fmt.Errorf("encode the node ports of Service %s: %w", plan.KeyOf(svc), err)
	}
	options := applyOptions()
	options.FieldManager = nodePortManager
	written, err := c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.ApplyPatchType, body, options)
	if apierrors.IsInvalid(err) && c.nodePorts.learnFromRefusal(err.Error()) {
		c.queue.Add(fullSync) // it chooses other ports
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("apply the node ports of Service %s: %w", plan.KeyOf(svc), err)
	}
	c.ownWrites.observe(written)
	return written.ResourceVersion != svc.ResourceVersion, nil
}

// appliedNodePorts are the node ports that were allocated before: an apply would
// release those that it omits. It returns a conflict unless the Service is still in
// the version that was decided upon (optimistic locking).
func (c *Controller) appliedNodePorts(ctx context.Context, svc *corev1.Service) (applied []map[string]any, err error) {
	live, err := c.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get Service %s: %w", plan.KeyOf(svc), err)
	}
	if live.UID != svc.UID || live.ResourceVersion != svc.ResourceVersion {
		c.ownWrites.observe(live)
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "services"}, svc.Name, errors.New("the Service has changed"))
	}
	own, err := applycorev1.ExtractService(live, nodePortManager)
	if err != nil {
		return nil, fmt.Errorf("extract the applied node ports of Service %s: %w", plan.KeyOf(svc), err)
	}
	if own.Spec == nil {
		return nil, nil
	}
	for _, p := range own.Spec.Ports {
		if p.Port != nil && p.Protocol != nil && p.NodePort != nil {
			applied = append(applied, map[string]any{"port": *p.Port, "protocol": *p.Protocol, "nodePort": *p.NodePort})
		}
	}
	return applied, nil
}
