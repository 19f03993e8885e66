package controller

import (
	"context"
	"encoding/json"
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

	"github.com/fairlead-io/fairlead/controller/plan"
)

// nodePortManager owns the node ports that the controller has given, and
// nothing else, so that they can be taken back and the user's cannot.
const nodePortManager = fieldManager + "-nodeport"

// nodePortRange remembers what only the API server's refusals tell about the range.
type nodePortRange struct {
	mu      sync.Mutex
	inRange plan.PortRange
	refused map[int32]time.Time
}

// refusedPortTTL is when a refused port is tried again: the API server finds
// ports that nobody has any more every three minutes.
const refusedPortTTL = 5 * time.Minute

// current is the range as far as it is known.
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

// The API server tells its range, and which port is taken, in these words only.
var (
	allocatedPortMessage = regexp.MustCompile(`Invalid value: (\d+): provided port is already allocated`)
	portRangeMessage     = regexp.MustCompile(`not in the valid range\. The range of valid ports is (\d+-\d+)`)
)

// learnFromRefusal reports whether the refusal tells something that leads to another choice.
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

// writeNodePorts gives the Service its node ports, or takes all back that were
// given. It applies, so that the user's own applies keep what was given.
func (c *Controller) writeNodePorts(ctx context.Context, svc *corev1.Service, p plan.ServicePlan) (changed bool, err error) {
	metadata, spec := objectIdentity(svc), map[string]any{}
	if len(p.NodePorts) > 0 {
		given, err := c.appliedNodePorts(ctx, svc)
		if err != nil {
			return false, err
		}
		for _, n := range p.NodePorts {
			given = append(given, map[string]any{"port": n.Port, "protocol": n.Protocol, "nodePort": n.NodePort})
		}
		spec["ports"] = given
	}
	body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
	if err != nil {
		return false, fmt.Errorf("encode the node ports of Service %s: %w", plan.KeyOf(svc), err)
	}
	options := applyOptions()
	options.FieldManager = nodePortManager
	written, err := c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.ApplyPatchType, body, options)
	if apierrors.IsInvalid(err) && c.nodePorts.learnFromRefusal(err.Error()) {
		c.queue.Add(fullSync) // which chooses other ports
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("apply the node ports of Service %s: %w", plan.KeyOf(svc), err)
	}
	c.ownWrites.observe(written)
	return written.ResourceVersion != svc.ResourceVersion, nil
}

// appliedNodePorts are the node ports that were given to the Service already: an
// apply takes back what it does not repeat.
func (c *Controller) appliedNodePorts(ctx context.Context, svc *corev1.Service) (given []map[string]any, err error) {
	live, err := c.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get Service %s: %w", plan.KeyOf(svc), err)
	}
	if live.UID != svc.UID || live.ResourceVersion != svc.ResourceVersion {
		c.ownWrites.observe(live)
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "services"}, svc.Name, fmt.Errorf("it has changed since"))
	}
	ours, err := applycorev1.ExtractService(live, nodePortManager)
	if err != nil {
		return nil, fmt.Errorf("read who owns the fields of Service %s: %w", plan.KeyOf(svc), err)
	}
	if ours.Spec == nil {
		return nil, nil
	}
	for _, p := range ours.Spec.Ports {
		if p.Port != nil && p.Protocol != nil && p.NodePort != nil {
			given = append(given, map[string]any{"port": *p.Port, "protocol": *p.Protocol, "nodePort": *p.NodePort})
		}
	}
	return given, nil
}
