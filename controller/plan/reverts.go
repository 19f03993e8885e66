package plan

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// RevertedBy is the message about the field manager, "" if it is unknown, that reverts
// what the controller writes to a Service.
func RevertedBy(manager string) string {
	if manager == "" {
		return "another writer repeatedly reverts what the controller writes to this Service"
	}
	return fmt.Sprintf("field manager %q repeatedly reverts what the controller writes to this Service", manager)
}

// revertNote is the message about the writer that reverts the Service; "" if there is none.
func (d *decision) revertNote(svc *serviceState) string {
	manager, reverted := d.Reverted[svc.key]
	if !reverted {
		return ""
	}
	return RevertedBy(manager)
}

// noteRevert adds the note to the condition Provisioned. A refusal keeps its reason.
func (p *ServicePlan) noteRevert(note string) {
	if note == "" || len(p.Conditions) == 0 || strings.Contains(p.Conditions[0].Message, note) {
		return
	}
	if p.Conditions[0].Status == metav1.ConditionTrue {
		p.Conditions[0].Reason = string(v1alpha1.Reverted)
	}
	p.Conditions[0].Message = config.Message(note + "; " + p.Conditions[0].Message)
}
