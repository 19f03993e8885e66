package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// ownTags identify the cluster and the Service of an object.
func ownTags(cluster string, svc *corev1.Service) map[string]string {
	return map[string]string{
		tagCluster: cluster, tagClusterOwned(cluster): "owned",
		tagService: svc.Namespace + "/" + svc.Name, tagUID: string(svc.UID),
	}
}

// maxRecord is the length limit of a tag's value (AddTags).
const maxRecord = 256

// recordTags writes a text into as many tags as it needs.
func recordTags(tag, text string) map[string]string {
	all := map[string]string{}
	i := 1
	// The limit counts characters, and a part must not end within one.
	for part := range slices.Chunk([]rune(text), maxRecord) {
		name := tag
		if i > 1 {
			name = fmt.Sprintf("%s-%d", tag, i)
		}
		all[name] = string(part)
		i++
	}
	return all
}

// recordedText is the inverse of recordTags.
func recordedText(tags map[string]string, tag string) string {
	text := tags[tag]
	for i := 2; tags[fmt.Sprintf("%s-%d", tag, i)] != ""; i++ {
		text += tags[fmt.Sprintf("%s-%d", tag, i)]
	}
	return text
}

// allTags returns the desired tags of an object: those that identify it, the
// user's, and the records of what was set.
func allTags(own, users map[string]string, name string, records ...map[string]string) map[string]string {
	// Later maps win: a user may replace the tag Name, but not the tags that
	// identify the object.
	all := append([]map[string]string{{tagName: name}, users, own}, records...)
	return mergeMaps(append(all, recordTags(tagTags, strings.Join(slices.Sorted(maps.Keys(users)), "=")))...)
}

// diffTags returns which tags to add and which to remove. Tags that are neither
// ours nor recorded as the user's stay.
func diffTags(observed, desired map[string]string) (add map[string]string, remove []string) {
	for k, v := range desired {
		if old, ok := observed[k]; !ok || old != v {
			add = put(add, k, v)
		}
	}
	users := strings.Split(recordedText(observed, tagTags), "=")
	for _, k := range slices.Sorted(maps.Keys(observed)) {
		_, kept := desired[k]
		// Other controllers and users of AWS tag our objects, too: their tags are
		// not removed.
		ours := strings.HasPrefix(k, v1alpha1.GroupVersion.Group+"/") || slices.Contains(users, k)
		if !kept && ours {
			remove = append(remove, k)
		}
	}
	return add, remove
}
