"""Explanations: methods such as Grad-CAM and HR-CAM, of both networks and of any other, and how far any two agree.

Explain tiles `[n, h, w, 3]` of bytes with a run's classifier::

    from vitrail.explain.explainer import Explainer
    from vitrail.explain.methods.hrcam import fit
    from vitrail.models.store import load_model

    explainer = Explainer(load_model(run / "classifier"), torch.device("cpu"))
    for saliency in explainer.gradcam(tiles):
        saliency.values  # [h', w'], signed, at the feature map's own resolution
        saliency.upsample()  # at the tile's

    head = fit(explainer.layers, explainer.pool(training_tiles), is_tumor, l2=1.0)
    for gradcam, hrcam in explainer.maps(tiles, ["gradcam", "hrcam"], {"hrcam": head}):
        hrcam.values  # of a batch, [n, h', w'], from the same forward pass
"""
