// Every text of the page, in English and German.

export const TEXTS = {
  all: ["All", "Alle"],
  close: ["Close", "Schließen"],
  contour: ["Lines only", "Nur Linien"],
  error: ["Error", "Fehler"],
  "error.library": ["OpenSeadragon is missing. Fetch it with: make viewer", "OpenSeadragon fehlt. Holen Sie es mit: make viewer"],
  "error.server": ["The viewer's server does not answer. Start it again with: vitrail view", "Der Server antwortet nicht. Starten Sie ihn neu mit: vitrail view"],
  "error.slide": ["The slide cannot be read.", "Der Schnitt kann nicht gelesen werden."],
  "error.square": ["A part of the slide cannot be read.", "Ein Teil des Schnitts kann nicht gelesen werden."],
  "error.status": ["The server answers {status}.", "Der Server antwortet {status}."],
  "error.unknown": ["The link names a slide that is not here.", "Der Link nennt einen Schnitt, den es hier nicht gibt."],
  hide: ["Hide all layers (h)", "Alle Ebenen ausblenden (h)"],
  home: ["All slides", "Alle Schnitte"],
  layers: ["Layers", "Ebenen"],
  "layers.close": ["Close the panel", "Leiste schließen"],
  "layers.none": ["This slide has no maps.", "Zu diesem Schnitt gibt es keine Karten."],
  "layers.said": ["What the networks say", "Was die Netze sagen"],
  "layers.why": ["Why: {network}", "Warum: {network}"],
  "layer.none": ["Tissue alone", "Nur Gewebe"],
  "layer.artefacts": ["Artefacts", "Artefakte"],
  "layer.classes": ["Tissue classes", "Gewebeklassen"],
  "layer.classifier": ["Tumor probability of tiles", "Tumorwahrscheinlichkeit der Kacheln"],
  "layer.segmenter": ["Tumor probability of pixels", "Tumorwahrscheinlichkeit der Pixel"],
  "layer.segmenter_tiles": ["Share of tumor in tiles", "Tumoranteil der Kacheln"],
  "layer.of_slide": ["{method} of the slide", "{method} des Schnitts"],
  near: ["Most alike in training", "Im Training am ähnlichsten"],
  "near.alt": ["Training tile of {slide}, {label}", "Trainingskachel aus {slide}, {label}"],
  "near.like": ["likeness {value}", "Ähnlichkeit {value}"],
  "near.none": ["There are none.", "Es gibt keine."],
  "near.waiting": ["Looking through the training tiles", "Die Trainingskacheln werden durchgesehen"],
  "network.classifier": ["Classification network", "Klassifikationsnetz"],
  "network.segmenter": ["Segmentation network", "Segmentierungsnetz"],
  "network.short.classifier": ["Classification", "Klassifikation"],
  "network.short.segmenter": ["Segmentation", "Segmentierung"],
  "class.tumor": ["Tumor", "Tumor"],
  "class.non_tumor": ["Non-tumor", "Kein Tumor"],
  "class.other": ["Other", "Anderes"],
  "class.background": ["Background", "Hintergrund"],
  "class.artefact": ["Artefact", "Artefakt"],
  "method.expected_gradients": ["Expected gradients", "Erwartete Gradienten"],
  "method.integrated_gradients": ["Integrated gradients", "Integrierte Gradienten"],
  "method.occlusion": ["Occlusion", "Verdeckung"],
  "split.train": ["Training", "Training"],
  "split.validation": ["Validation", "Validierung"],
  "split.test": ["Test", "Test"],
  opacity: ["Opacity", "Deckkraft"],
  outlines: ["Outlines", "Umrisse"],
  palette: ["Colours", "Farben"],
  "palette.evidence": ["Orange and blue", "Orange und Blau"],
  "palette.greenviolet": ["Violet and green", "Violett und Grün"],
  "palette.warm": ["Yellow to violet", "Gelb bis Violett"],
  "palette.cool": ["Green to violet", "Grün bis Violett"],
  "palette.grey": ["Grey", "Grau"],
  presets: ["Side by side", "Nebeneinander"],
  "preset.networks": ["Both networks", "Beide Netze"],
  "preset.cams": ["Grad-CAM and HR-CAM", "Grad-CAM und HR-CAM"],
  "preset.both": ["Grad-CAM of both networks", "Grad-CAM beider Netze"],
  "preset.four": ["Four at once", "Vier zugleich"],
  seconds: ["{seconds} s", "{seconds} s"],
  sign: ["Show", "Zeigen"],
  "sign.both": ["For and against", "Für und gegen"],
  "sign.for": ["For tumor", "Für Tumor"],
  "sign.against": ["Against tumor", "Gegen Tumor"],
  "sign.for.short": ["for tumor", "für Tumor"],
  "sign.against.short": ["against", "dagegen"],
  "slide.back": ["All slides", "Alle Schnitte"],
  "slide.next": ["Next slide", "Nächster Schnitt"],
  "slide.previous": ["Slide before", "Voriger Schnitt"],
  "slide.share": ["Copy link", "Link kopieren"],
  "slide.shared": ["The link is copied.", "Der Link ist kopiert."],
  "slide.share.bar": ["The link stands in the address bar.", "Der Link steht in der Adresszeile."],
  "slide.unreadable": ["This slide cannot be opened.", "Dieser Schnitt kann nicht geöffnet werden."],
  threshold: ["Threshold", "Schwelle"],
  "value.nothing": ["nothing here", "hier nichts"],
  "view.label": ["View {number} of the slide: arrows move, plus and minus zoom, Enter explains the middle", "Ansicht {number} des Schnitts: Pfeile bewegen, Plus und Minus zoomen, Enter erklärt die Mitte"],
  "views.active": ["View {number}", "Ansicht {number}"],
  "views.count": ["Views", "Ansichten"],
  "views.linked": ["Views move together", "Ansichten bewegen sich gemeinsam"],
  "views.n": ["Views side by side: {count}", "Ansichten nebeneinander: {count}"],
  waiting: ["One moment", "Einen Moment"],
  "waiting.slide": ["Opening {name}", "{name} wird geöffnet"],
  "wall.title": ["Slides", "Schnitte"],
  "wall.clear": ["Show all", "Alle zeigen"],
  "wall.count": ["{shown} of {all}", "{shown} von {all}"],
  "wall.disagree": ["The networks differ on {share} of {tiles} tiles", "Die Netze weichen bei {share} von {tiles} Kacheln ab"],
  "wall.errors": ["Errors", "Fehler"],
  "wall.errors.any": ["All", "Alle"],
  "wall.errors.wrong": ["A network is wrong", "Ein Netz irrt"],
  "wall.errors.both": ["Both are wrong", "Beide irren"],
  "wall.errors.disagree": ["Networks differ", "Netze weichen ab"],
  "wall.errors.right": ["No tile wrong", "Keine Kachel falsch"],
  "wall.explained": ["Tiles explained", "Kacheln erklärt"],
  "wall.mapped": ["Whole slide mapped", "Ganzer Schnitt kartiert"],
  "wall.unmapped": ["No maps", "Keine Karten"],
  "wall.nothing": ["No slide fits.", "Kein Schnitt passt."],
  "wall.patient": ["Patient {name}", "Patient {name}"],
  "wall.search": ["Search", "Suche"],
  "wall.search.hint": ["Slide, patient, group", "Schnitt, Patient, Gruppe"],
  "wall.sort": ["Sort by", "Sortieren nach"],
  "wall.sort.session": ["Split", "Aufteilung"],
  "wall.sort.name": ["Name", "Name"],
  "wall.sort.wrong": ["Most wrong", "Meiste Fehler"],
  "wall.sort.disagree": ["Most different", "Größte Abweichung"],
  "wall.sort.tumor": ["Most tumor", "Meister Tumor"],
  "wall.split": ["Split", "Aufteilung"],
  "wall.truth": ["Outlines", "Umrisse"],
  "wall.tumor": ["Tumor", "Tumor"],
  "wall.wrong": ["Wrong", "Falsch"],
  "wall.unreadable": ["Cannot be opened.", "Kann nicht geöffnet werden."],
  "wall.unscored": ["No tiles judged", "Keine Kacheln beurteilt"],
  why: ["Why", "Warum"],
  "why.label": ["Why the networks say so", "Warum die Netze das sagen"],
  "why.agreement": ["between networks r = {r}", "zwischen den Netzen r = {r}"],
  "why.agreement.none": ["between networks: not defined", "zwischen den Netzen: nicht bestimmt"],
  "why.called": ["says: {called}", "sagt: {called}"],
  "why.close": ["Close", "Schließen"],
  "why.map.label": ["{method}, {network}: from {low} to {high}, strongest at {x} % from the left and {y} % from the top", "{method}, {network}: von {low} bis {high}, am stärksten {x} % von links und {y} % von oben"],
  "why.colours": ["Orange speaks for tumor, blue against. Full colour is each map's own strongest value.", "Orange spricht für Tumor, Blau dagegen. Volle Farbe ist der stärkste Wert der jeweiligen Karte."],
  "why.map.flat": ["same everywhere", "überall gleich"],
  "why.maps": ["Where they see it", "Wo sie es sehen"],
  "why.method.waiting": ["{method} is computed", "{method} wird berechnet"],
  "why.no_network": ["No trained network belongs to these slides, so nobody can be asked.", "Zu diesen Schnitten gehört kein trainiertes Netz, das man fragen könnte."],
  "why.ready": ["The explanation is there.", "Die Erklärung ist da."],
  "why.said": ["Tumor probability", "Tumorwahrscheinlichkeit"],
  "why.seconds": ["Answered in {seconds} s", "In {seconds} s beantwortet"],
  "why.side": ["tile of {side} {unit}", "Kachel von {side} {unit}"],
  "why.slow": ["Methods that take longer", "Methoden, die länger brauchen"],
  "why.tile": ["Tile", "Kachel"],
  "why.waiting": ["Both networks look at this tile", "Beide Netze sehen sich die Kachel an"],
  brush: ["What if", "Was wäre, wenn"],
  "brush.ask": ["Ask again", "Neu fragen"],
  "brush.by": ["Replace by", "Ersetzen durch"],
  "brush.by.blur": ["Blur", "Unschärfe"],
  "brush.by.tissue": ["Pale tissue", "Blasses Gewebe"],
  "brush.clear": ["Clear", "Leeren"],
  "brush.hint": ["Brush a part away and see what the networks say without it.", "Wischen Sie einen Teil weg und sehen Sie, was die Netze ohne ihn sagen."],
  "brush.label": ["Brush: arrows move it, space brushes away, Enter asks, Backspace takes back", "Pinsel: Pfeile bewegen ihn, Leertaste wischt weg, Enter fragt, Rücktaste nimmt zurück"],
  "brush.nothing": ["Nothing is brushed away yet.", "Noch ist nichts weggewischt."],
  "brush.radius": ["Radius", "Radius"],
  "brush.share": ["{share} of the tile brushed away", "{share} der Kachel weggewischt"],
  "brush.undo": ["Undo", "Zurück"],
  "keys.title": ["Keys", "Tasten"],
  "keys.single": ["Single letters act", "Einzelne Buchstaben wirken"],
  "key.clear": ["Show all slides", "Alle Schnitte zeigen"],
  "key.close": ["Close the explanation", "Erklärung schließen"],
  "key.contour": ["Area or lines", "Fläche oder Linien"],
  "key.down": ["Move down", "Nach unten"],
  "key.fit": ["Whole slide", "Ganzer Schnitt"],
  "key.hide": ["Hide all layers while held", "Ebenen ausblenden, solange gedrückt"],
  "key.higher": ["Raise the threshold", "Schwelle erhöhen"],
  "key.in": ["Closer", "Näher"],
  "key.keys": ["These keys", "Diese Tasten"],
  "key.layer": ["Choose a layer", "Ebene wählen"],
  "key.left": ["Move left", "Nach links"],
  "key.lower": ["Lower the threshold", "Schwelle senken"],
  "key.next": ["Next slide", "Nächster Schnitt"],
  "key.nolayer": ["Tissue alone", "Nur Gewebe"],
  "key.out": ["Farther", "Weiter weg"],
  "key.outlines": ["Outlines on or off", "Umrisse an oder aus"],
  "key.paler": ["Layer paler", "Ebene blasser"],
  "key.panel": ["Layers panel", "Leiste der Ebenen"],
  "key.previous": ["Slide before", "Voriger Schnitt"],
  "key.right": ["Move right", "Nach rechts"],
  "key.search": ["Search", "Suchen"],
  "key.sign": ["For, against or both", "Für, gegen oder beides"],
  "key.stronger": ["Layer stronger", "Ebene kräftiger"],
  "key.up": ["Move up", "Nach oben"],
  "key.view": ["Next view", "Nächste Ansicht"],
  "key.views": ["One, two or four views", "Eine, zwei oder vier Ansichten"],
  "key.wall": ["All slides", "Alle Schnitte"],
  "key.why": ["Explain the middle", "Die Mitte erklären"],
};

const LANGUAGES = ["en", "de"];

let chosen = null;

/** Returns the page's language: of the address (`?lang=`), else the browser's. */
export function language() {
  const asked = [chosen, new URLSearchParams(location.search).get("lang"), ...navigator.languages.map((each) => each.slice(0, 2))];
  return asked.find((each) => LANGUAGES.includes(each)) ?? "en";
}

/** Changes the language, in the address too. */
export function setLanguage(name) {
  chosen = name;
  const address = new URL(location.href);
  address.searchParams.set("lang", name);
  history.replaceState(null, "", address);
}

/** Returns a text with the values that it names in braces. */
export function t(key, values = {}) {
  const text = TEXTS[key];
  if (!text) throw new Error(`no text ${key}`);
  return text[LANGUAGES.indexOf(language())].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const titled = (key, title) => (TEXTS[key] ? t(key) : title);

/** Return what something of the server is called in the page's language; its own title where no text is written. */
export const className = (each) => titled(`class.${each.key}`, each.title);
export const networkTitle = (task, short = false) => titled(`network.${short ? "short." : ""}${task}`, task);
export const methodTitle = (name, title) => titled(`method.${name}`, title);
export const splitTitle = (name) => titled(`split.${name}`, name);

/** Returns what a layer is called; `short` leaves out whose reasons it shows. */
export function layerTitle(layer, short = false) {
  if (TEXTS[`layer.${layer.key}`]) return t(`layer.${layer.key}`);
  if (layer.key.startsWith("slide_")) {
    const method = layer.key.slice("slide_".length);
    return t("layer.of_slide", { method: methodTitle(method, layer.title.replace(/ of the slide$/, "")) });
  }
  const method = methodTitle(layer.key.slice(layer.network.length + 1), layer.title);
  return short || !layer.network ? method : `${method} \u00b7 ${networkTitle(layer.network, true)}`;
}
